"""``python -m server``: serve the API by uvicorn until told to stop."""

import argparse
import os
import sys
import threading

import uvicorn

from server.app import create_app
from server.settings import ServerSettings

GRACE_S = 3
"""How long open requests may take to end after a stop."""


def main() -> None:
    """Serve until a signal comes, or the parent's pipe closes."""
    settings = ServerSettings()
    parser = argparse.ArgumentParser(prog="python -m server", description=__doc__)
    parser.add_argument("--host", default=settings.host)
    parser.add_argument("--port", type=int, default=settings.port)
    parser.add_argument(
        "--parent-pipe", action="store_true", help="stop when standard input closes"
    )
    arguments = parser.parse_args()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=arguments.host,
            port=arguments.port,
            log_level="warning",
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
    )
    if arguments.parent_pipe:
        threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    threading.Thread(target=_announce, args=(server,), daemon=True).start()
    server.run()
    if not server.started:
        sys.exit(1)


def _stop_with_parent(server: uvicorn.Server) -> None:
    # Not sys.stdin: a thread that waits in its buffer's lock aborts the interpreter's shutdown.
    while os.read(0, 1):
        pass
    server.should_exit = True


def _announce(server: uvicorn.Server) -> None:
    waiting = threading.Event()
    while not server.started:
        waiting.wait(0.05)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"Serving on http://{shown}:{port}/v1\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
