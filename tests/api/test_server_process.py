"""The server as its own process: start, stop, and what survives kill -9."""

import os
import signal
import subprocess
import sys

import pytest
from openai import OpenAI


def test_importing_the_application_needs_no_training_stack_and_does_nothing(tmp_path):
    code = (
        "import sys, server.app, server.__main__, store.queue, vrpo.contract.views;"
        "heavy = {'torch', 'ray', 'transformers'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    environment = {**os.environ, "VRPO_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / "home").exists()


class Process:
    """``python -m server`` on a free port."""

    def __init__(self, home, *options):
        environment = {**os.environ, "VRPO_HOME": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "--port", "0", *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        announced = self.process.stdout.readline()
        assert announced.startswith("Serving on http://"), announced
        self.url = announced.split()[-1]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    (folder / "weights").mkdir(parents=True)
    (folder / "models.toml").write_text('[[models]]\nid = "m"\npath = "weights"\n')
    return folder


def test_what_was_answered_survives_a_kill_and_the_key_stays(home, preferences):
    with Process(home) as first:
        key = (home / "admin.key").read_text().strip()
        with OpenAI(base_url=first.url, api_key=key) as sdk:
            file = sdk.files.create(file=("p.jsonl", preferences), purpose="fine-tune")
            job = sdk.fine_tuning.jobs.create(model="m", training_file=file.id)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with Process(home) as second, OpenAI(base_url=second.url, api_key=key) as sdk:
        assert sdk.fine_tuning.jobs.retrieve(job.id).status == "queued"
        assert sdk.files.content(file.id).read() == preferences


def test_bytes_that_a_killed_server_left_without_a_row_go_after_a_day(home, preferences):
    with Process(home) as first:
        key = (home / "admin.key").read_text().strip()
        with OpenAI(base_url=first.url, api_key=key) as sdk:
            kept = sdk.files.create(file=("p.jsonl", preferences), purpose="fine-tune").id
    folder = home / "artifacts" / "files"
    for name in ("old", ".old.part", "fresh"):
        (folder / name).write_bytes(b"x")
    for name in (kept, "old", ".old.part"):
        os.utime(folder / name, (1, 1))

    with Process(home):
        assert sorted(path.name for path in folder.iterdir()) == sorted([kept, "fresh"])


def test_it_stops_when_its_parents_pipe_closes(home):
    with Process(home, "--parent-pipe") as running:
        running.process.stdin.close()
        assert running.process.wait(timeout=30) == 0


def test_a_signal_stops_it(home):
    with Process(home) as running:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(timeout=30)
