"""Long polls: wait for a change without holding a session."""

import asyncio
import time
from collections.abc import Callable

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from server.settings import ServerSettings


class Waiters:
    """Counts the long polls that are held; used from the event loop alone."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._held = 0

    async def until(self, has_changed: Callable[[], bool], request: Request, wait_s: float) -> None:
        """Return once ``has_changed``, after ``wait_s``, or when the client has gone.

        With too many held already it returns at once, which is an answer the client can repeat.
        """
        if wait_s <= 0 or self._held >= self._settings.max_waiters:
            return
        deadline = time.monotonic() + wait_s
        self._held += 1
        try:
            while not await run_in_threadpool(has_changed):
                if time.monotonic() >= deadline or await request.is_disconnected():
                    return
                await asyncio.sleep(min(self._settings.poll_s, wait_s))
        finally:
            self._held -= 1
