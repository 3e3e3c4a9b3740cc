"""The service as its users start it: ``vrpo serve`` on a free port, a home of its own, real Ray.

The pytest process itself holds no database, no Ray and no torch model; it speaks HTTP.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openai import OpenAI

from vrpo.client import connect, run_of

START_TIMEOUT_S = 120
JOB_TIMEOUT_S = 300


class Served:
    """A running ``vrpo serve``; ``with`` ends it, and looks for processes that outlived it."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.port = free_port()
        self.options = options
        self.job_timeout_s = JOB_TIMEOUT_S
        self.log = (home / "serve.log").open("ab")
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "vrpo.cli", "serve", "--port", str(self.port), *self.options],
            env={**os.environ, "VRPO_HOME": str(self.home), "VRPO_STOP_GRACE_S": "5"},
            stdout=self.log,
            stderr=self.log,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return process
        raise AssertionError(f"vrpo serve did not start:\n{self.log_text()}")

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self.log.close()

    @property
    def client(self) -> OpenAI:
        key = (self.home / "admin.key").read_text().strip()
        return connect(base_url=f"http://127.0.0.1:{self.port}", api_key=key)

    def log_text(self) -> str:
        return (self.home / "serve.log").read_text(errors="replace")[-5000:]

    def kill(self) -> None:
        """``kill -9`` the parent, and wait until its children have noticed."""
        self.process.kill()
        self.process.wait()
        until(lambda: not self.processes(), "the children of a killed parent end")

    def restart(self) -> None:
        self.process = self._start()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) in (0, -signal.SIGKILL)
        until(lambda: not self.processes(), "every process of an ended service is gone")

    def processes(self, named: str = "") -> list[int]:
        """Return the ids of this service's processes whose command line holds ``named``."""
        found = processes_with("VRPO_HOME", str(self.home), named)
        return [pid for pid in found if pid != self.process.pid]

    def actor_processes(self) -> list[int]:
        return self.processes("ray::StageActor")

    def submit(self, pairs: Path, **body: Any) -> str:
        client = self.client
        with pairs.open("rb") as content:
            file = client.files.create(file=content, purpose="fine-tune")
        request = {"model": "tiny", "training_file": file.id, "seed": 7} | body
        required = {name: request.pop(name) for name in ("model", "training_file")}
        return client.fine_tuning.jobs.create(**required, extra_body=request).id

    def watch(self, job_id: str) -> Iterator[Any]:
        """Yield the job, again and again, until it has ended."""
        client = self.client
        deadline = time.monotonic() + self.job_timeout_s
        while time.monotonic() < deadline:
            job = client.fine_tuning.jobs.retrieve(job_id)
            yield job
            if job.status in ("succeeded", "failed", "cancelled"):
                return
            time.sleep(0.1)
        raise AssertionError(f"job {job_id} did not end in time:\n{self.log_text()}")

    def finished(self, job_id: str) -> Any:
        *_, job = self.watch(job_id)
        return job

    def until_training(self, job_id: str, *, step: int) -> None:
        """Return once the policy's training has got to ``step``."""
        for job in self.watch(job_id):
            stage = stage_of(job, "train_policy")
            if (stage["progress"] or {"done": 0})["done"] >= step:
                return
        raise AssertionError(f"job {job_id} ended before step {step}: {job.error}")


def processes_with(variable: str, value: str, named: str = "") -> list[int]:
    """Return the ids of processes started with that environment, whose command holds ``named``."""
    mark = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            # Arguments are parted by NUL.
            if mark in environment and command and named in command.replace("\0", " "):
                found.append(int(folder.name))
    return found


def stage_of(job: Any, name: str) -> dict[str, Any]:
    return next(stage for stage in run_of(job)["stages"] if stage["name"] == name)


def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"this did not come to be: {what}"
        time.sleep(0.05)


def make_home(folder: Path) -> Path:
    """Return a home with a model ``tiny`` and a model ``broken``, whose weights do not fit."""
    folder.mkdir()
    make_tiny_model(folder / "tiny")
    make_tiny_model(folder / "broken")
    config_file = folder / "broken" / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"hidden_size": 48}))
    (folder / "models.toml").write_text(
        "".join(f'[[models]]\nid = "{name}"\npath = "{name}"\n' for name in ("tiny", "broken"))
    )
    return folder


def make_tiny_model(folder: Path) -> None:
    """Write a Llama of 30 thousand random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).save_pretrained(folder)


def make_tiny_embedder(folder: Path) -> None:
    """Write a BERT of random weights that knows five words and reads six tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "sea", "is", "blue", "red"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=6
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=32, pad_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip


def write_pairs(path: Path, rows: int = 40) -> Path:
    lines = [
        {
            "input": {"messages": [{"role": "user", "content": f"Number {i} is"}]},
            "preferred_output": [{"role": "assistant", "content": " good."}],
            "non_preferred_output": [{"role": "assistant", "content": " bad!"}],
        }
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
