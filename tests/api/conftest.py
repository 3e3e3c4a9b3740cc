"""A real server in a thread on 127.0.0.1, SQLite in a temporary folder, and the real SDK."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvicorn
from openai import OpenAI

from server.app import create_app
from server.settings import ServerSettings
from store import attempts, queue, spool, transitions
from store.queue import Claim
from store.session import Sessions
from vrpo.contract.status import StageName, StageStatus
from vrpo.contract.task import Checkpoint, Log, Metrics, Progress, SpoolRecord

BASE_MODEL = "acme/tiny-model"
MAX_FILE_BYTES = 3_000_000
LEASE = timedelta(minutes=1)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """One running server and what a test may reach of it."""

    url: str
    key: str
    home: Path
    sessions: Sessions

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {key or self.key}", **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        request = Request(self.url + path, data=body, method=method, headers=sent)
        try:
            with urlopen(request, timeout=30) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())

    def sdk(self, key: str | None = None, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, **options)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextlib.contextmanager
def serving(settings: ServerSettings) -> Iterator[Service]:
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    started = threading.Event()
    while not server.started and thread.is_alive():
        started.wait(0.02)
    try:
        yield Service(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            key=(settings.home / "admin.key").read_text().strip(),
            home=settings.home,
            sessions=app.state.sessions,
        )
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def make_settings(home: Path, **changes: Any) -> ServerSettings:
    (home / "weights").mkdir(parents=True, exist_ok=True)
    (home / "models.toml").write_text(f'[[models]]\nid = "{BASE_MODEL}"\npath = "weights"\n')
    options = {"home": home, "max_file_bytes": MAX_FILE_BYTES, "poll_s": 0.02, **changes}
    return ServerSettings(**options)


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Service]]:
    """Start a server whose data are in a folder."""
    return lambda home, **changes: serving(make_settings(home, **changes))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(make_settings(tmp_path / "home")) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with service.sdk() as sdk:
        yield sdk


def preference_row(number: int) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": f"Question {number}?"}]},
        "preferred_output": [{"role": "assistant", "content": f"A kind answer to {number}."}],
        "non_preferred_output": [{"role": "assistant", "content": f"No {number}."}],
    }


def chat_row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    }


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def preferences() -> bytes:
    return jsonl([preference_row(number) for number in range(12)])


@pytest.fixture
def file_id(client: OpenAI, preferences: bytes) -> str:
    return client.files.create(file=("pairs.jsonl", preferences), purpose="fine-tune").id


VRPO: Any = {"type": "vrpo", "vrpo": {}}


@pytest.fixture
def new_job(client: OpenAI, file_id: str) -> Callable[..., Any]:
    def create(**changes: Any) -> Any:
        request = {"model": BASE_MODEL, "training_file": file_id, "method": VRPO, **changes}
        return client.fine_tuning.jobs.create(**request)

    return create


def job_body(file_id: str, **changes: Any) -> bytes:
    request = {"model": BASE_MODEL, "training_file": file_id, "method": VRPO, **changes}
    return json.dumps(request).encode()


@pytest.fixture
def claimed(service: Service) -> Callable[[], Claim]:
    """Claim the next job, as a controller does."""

    def claim() -> Claim:
        with service.sessions.begin() as session:
            found = queue.claim_job(session, owner="test", now=datetime.now(UTC), lease=LEASE)
        assert found is not None
        return found

    return claim


@pytest.fixture
def report_steps(service: Service, claimed: Callable[[], Claim]) -> Callable[[list[int]], Claim]:
    """Claim the next job and report losses, logs and checkpoints of its training."""

    def report(steps: list[int]) -> Claim:
        claim = claimed()
        stage = StageName.TRAIN_POLICY
        bodies: list[Any] = []
        for step in steps:
            bodies += [
                Metrics(step=step, values={"loss": 1.0 / step, "grad_norm": None}),
                Log(level="info", message=f"step {step}"),
                Checkpoint(step=step, metrics={"loss": 0.25}),
                Progress(done=step, total=10, unit="steps"),
            ]
        with service.sessions.begin() as session:
            transitions.move_stage(
                session, claim.job_id, claim.epoch, stage, StageStatus.PENDING, StageStatus.RUNNING
            )
            attempts.start_attempt(session, claim.job_id, claim.epoch, stage, "actor", "/nowhere")
            assert spool.apply_records(
                session,
                job_id=claim.job_id,
                epoch=claim.epoch,
                stage=stage,
                records=[
                    SpoolRecord(seq=seq, at=1_790_000_000 + seq, body=body)
                    for seq, body in enumerate(bodies, start=1)
                ],
                now=datetime.now(UTC),
                lease=LEASE,
            )
        return claim

    return report


@pytest.fixture
def chats() -> bytes:
    return jsonl([chat_row(number) for number in range(12)])


@pytest.fixture
def a_row() -> dict[str, Any]:
    return preference_row(99)
