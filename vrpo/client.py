"""Thin helpers over the ``openai`` SDK for what OpenAI's API has no call for.

client = connect()
job = client.fine_tuning.jobs.create(...)
job = wait(client, job.id)
download(client, job.id, Path("out"))
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from openai import APIConnectionError, InternalServerError, OpenAI, RateLimitError
from openai.types.fine_tuning import FineTuningJob

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
DEFAULT_URL = "http://127.0.0.1:8000"
_CHUNK_BYTES = 1 << 20
_READ_TIMEOUT_S = 60


class NoKey(Exception):
    """Raised when there is no API key to use; the message says where one is looked for."""


class ChecksumMismatch(Exception):
    """Raised when a downloaded file is not the one that the service stored."""


def home() -> Path:
    """Return ``$VRPO_HOME``, where a service on this machine keeps its data."""
    return Path(os.environ.get("VRPO_HOME", "~/.vrpo")).expanduser().resolve()


def connect(*, base_url: str | None = None, api_key: str | None = None) -> OpenAI:
    """Return an ``openai`` client for the service.

    The address comes from ``base_url``, ``$VRPO_BASE_URL``, or is this machine's; the key from
    ``api_key``, ``$VRPO_API_KEY``, or the file ``admin.key`` that the service keeps in its home.
    """
    url = (base_url or os.environ.get("VRPO_BASE_URL") or DEFAULT_URL).rstrip("/")
    return OpenAI(
        base_url=url if url.endswith("/v1") else f"{url}/v1",
        api_key=api_key or os.environ.get("VRPO_API_KEY") or _admin_key(),
    )


def _admin_key() -> str:
    path = home() / "admin.key"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NoKey(
            f"no API key: set VRPO_API_KEY, or VRPO_HOME to the service's home ({path} cannot be "
            "read)"
        ) from error


def get_json(client: OpenAI, path: str, **query: str | int | None) -> dict[str, Any]:
    """``GET`` a path under ``/v1`` that the SDK has no method for."""
    given: dict[str, object] = {name: v for name, v in query.items() if v is not None}
    answer: dict[str, Any] = client.get(path, cast_to=dict[str, Any], options={"params": given})
    return answer


def run_of(job: FineTuningJob) -> dict[str, Any]:
    """Return ``job.run``: stages, progress, queue, failure and the options it runs with."""
    run: dict[str, Any] = (job.model_extra or {}).get("run") or {}
    return run


def jobs_tagged(client: OpenAI, key: str, value: str) -> list[FineTuningJob]:
    """Return all jobs whose metadata has ``key`` with that value, newest first."""
    query: dict[str, object] = {f"metadata[{key}]": value}
    return list(client.fine_tuning.jobs.list(limit=100, extra_query=query))


def watch(client: OpenAI, job_id: str, *, poll_s: float = 1.0) -> Iterator[FineTuningJob]:
    """Yield the job each time it has changed, until it has ended.

    A service that is away for a while (a restart) is asked again; only an answer that says no ends
    the watch with an error.
    """
    version = None
    while True:
        try:
            job = client.fine_tuning.jobs.retrieve(job_id)
        except (APIConnectionError, InternalServerError, RateLimitError):
            time.sleep(poll_s)
            continue
        if run_of(job).get("version") != version:
            version = run_of(job).get("version")
            yield job
        if job.status in TERMINAL:
            return
        time.sleep(poll_s)


def wait(
    client: OpenAI,
    job_id: str,
    *,
    on_change: Callable[[FineTuningJob], None] = lambda job: None,
    poll_s: float = 1.0,
) -> FineTuningJob:
    """Return the job once it has succeeded, failed or been cancelled."""
    last = None
    for job in watch(client, job_id, poll_s=poll_s):
        on_change(job)
        last = job
    return last or client.fine_tuning.jobs.retrieve(job_id)


def metrics(
    client: OpenAI,
    job_id: str,
    *,
    keys: list[str] | None = None,
    stage: str | None = None,
    since_step: int | None = None,
    max_points: int | None = None,
) -> dict[str, Any]:
    """Return the job's metric series, bucketed to at most ``max_points`` a series."""
    return get_json(
        client,
        f"/fine_tuning/jobs/{job_id}/metrics",
        keys=",".join(keys) if keys else None,
        stage=stage,
        since_step=since_step,
        max_points=max_points,
    )


def artifacts(client: OpenAI, job_id: str) -> list[dict[str, Any]]:
    """Return the job's files: ``path``, ``bytes`` and ``sha256`` of each."""
    listed: list[dict[str, Any]] = get_json(client, f"/fine_tuning/jobs/{job_id}/artifacts")["data"]
    return listed


def download(
    client: OpenAI,
    job_id: str,
    folder: Path,
    *,
    prefix: str = "",
    on_bytes: Callable[[str, int], None] = lambda path, count: None,
) -> list[Path]:
    """Download the job's files whose path starts with ``prefix``, and check their SHA-256.

    Raises ``ChecksumMismatch``; a file that failed the check is not left under its name.
    """
    return [
        _download_one(client, job_id, entry, folder, on_bytes)
        for entry in artifacts(client, job_id)
        if entry["path"].startswith(prefix)
    ]


def _download_one(
    client: OpenAI,
    job_id: str,
    entry: Mapping[str, Any],
    folder: Path,
    on_bytes: Callable[[str, int], None],
) -> Path:
    name: str = entry["path"]
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ChecksumMismatch(f"{name} would be written outside {folder}; nothing was written")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    url = f"{client.base_url}fine_tuning/jobs/{job_id}/artifacts/{quote(name)}"
    request = Request(url, headers={"Authorization": f"Bearer {client.api_key}"})
    # The SDK reads a whole answer into memory; weights are larger than that allows.
    with urlopen(request, timeout=_READ_TIMEOUT_S) as answer, partial.open("wb") as file:
        while chunk := answer.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            on_bytes(name, len(chunk))
    if digest.hexdigest() != entry["sha256"].removeprefix("sha256:"):
        partial.unlink()
        raise ChecksumMismatch(f"{name}: SHA-256 is {digest.hexdigest()}, not {entry['sha256']}")
    partial.replace(target)
    return target
