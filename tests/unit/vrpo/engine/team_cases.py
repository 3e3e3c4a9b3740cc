"""A small training that one process, or a team of them, runs and tells of."""

import gc
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from vrpo.contract.base import Spec
from vrpo.contract.run import CheckpointsSpec, LoraSpec, TrainingSpec
from vrpo.contract.spec import ResolvedHyperparameters
from vrpo.control import ControlWeight
from vrpo.engine import Engine, Trainer, make_example
from vrpo.engine.sharding import ShardedTeam
from vrpo.engine.team import Team
from vrpo.errors import NumericalError, StageCancelled
from vrpo.models import add_lora
from vrpo.reward import RewardModel
from vrpo.stages.context import StageContext
from vrpo.stages.objectives import PreferenceData, PreferenceObjective, SupervisedObjective
from vrpo.stages.train_reward import freeze_unused_head
from vrpo.stages.training_loop import TrainerConfig, save_model, train

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
COUNT = 30


class Asked(Spec):
    """What one run of a team is to do."""

    name: str = ""
    """Runs of one name share their checkpoints."""
    model: Literal["llama", "tied llama", "padded"] = "llama"
    """``padded``: of an architecture that prompts are not shared in."""
    objective: Literal["vrpo", "dpo", "supervised", "reward"] = "vrpo"
    adapter: LoraSpec | None = None
    activation_checkpointing: bool = False
    compiled: bool = False
    """Two supervised steps alone, by layers that have gone through torch.compile's front."""
    schedule: str = "cosine"
    longest_prompt: int = 20
    n_epochs: int = 2
    batch_size: int = 5
    dtype: str = "float32"
    learning_rate: float = 1e-3
    stop_at: int | None = None
    """Cancelled before this step."""
    poisoned: bool = False
    """The label of one example is not a number."""
    sharded: bool = False
    """The team's workers hold a share of the weights each."""
    measured: bool = False
    """After each step, the bytes of all tensors that there are."""


def model_of(asked):
    torch.manual_seed(0)
    if asked.model == "padded":
        config = GPTNeoXConfig(**SIZES)
    else:
        config = LlamaConfig(**SIZES, tie_word_embeddings=asked.model == "tied llama")
    model = AutoModelForCausalLM.from_config(config).eval()
    if asked.adapter is not None:
        spec = asked.adapter
        model = add_lora(model, r=spec.r, alpha=spec.alpha, dropout=spec.dropout, seed=1)
    model = model.to(getattr(torch, asked.dtype))
    if asked.objective == "reward":
        freeze_unused_head(model)
        model = RewardModel(Engine(model)).to(getattr(torch, asked.dtype))
    return model


def drawn_examples(longest_prompt):
    draw = random.Random(3)

    def ids(low, high):
        return [draw.randrange(61) for _ in range(draw.randint(low, high))]

    return [
        make_example(ids(3, longest_prompt), [ids(2, 9) for _ in range(5)]) for _ in range(COUNT)
    ]


def objective_of(examples, asked):
    if asked.objective == "supervised":
        return SupervisedObjective(examples)
    draw = torch.Generator().manual_seed(5)
    logit = torch.randn(COUNT, 5, generator=draw)
    label = torch.rand(COUNT, generator=draw).round()
    if asked.poisoned:
        label[COUNT // 2] = float("nan")
    data = PreferenceData(
        anchor_NC=torch.randn(COUNT, 5, generator=draw) - 20,
        length_NC=torch.ones(COUNT, 5),
        preference_NCC=torch.sigmoid(logit[:, :, None] - logit[:, None, :]),
        sample_mask_NK=torch.ones(COUNT, 3, dtype=torch.bool),
        label_N=label,
        weight_N=0.5 + torch.rand(COUNT, generator=draw),
    )
    if asked.objective == "dpo":
        data = PreferenceData(
            anchor_NC=data.anchor_NC[:, :2],
            length_NC=data.length_NC[:, :2],
            preference_NCC=data.preference_NCC[:, :2, :2],
            sample_mask_NK=data.sample_mask_NK[:, :0],
            label_N=data.label_N,
            weight_N=data.weight_N,
        )
    return PreferenceObjective(
        examples,
        data,
        beta=None if asked.objective == "reward" else 0.1,
        options={"loss": "sigmoid", "pool": True, "margin_clip": None, "tau": None},
        control=ControlWeight(0.0 if asked.objective == "dpo" else "auto", min_examples=8),
    )


def bytes_of_tensors():
    """Return the bytes behind all floating-point tensors of this process."""
    gc.collect()
    kinds = {torch.Tensor, torch.nn.Parameter, DTensor}
    tensors = [item for item in gc.get_objects() if type(item) in kinds]
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    storages = [t.untyped_storage() for t in local if t.is_floating_point()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def run_training(folder, team, asked):
    """Train in this process; return every step's metrics, the weights and lambda's state."""
    examples = drawn_examples(asked.longest_prompt)
    if asked.objective == "dpo":
        examples = [make_example(e.prompt_ids, e.completions[:2]) for e in examples]
    objective = objective_of(examples, asked)
    metrics, num_bytes = [], []
    before = bytes_of_tensors() if asked.measured else 0

    model = model_of(asked)

    def report(step, values):
        metrics.append(dict(values))
        if asked.measured:
            num_bytes.append(bytes_of_tensors() - before)

    def raise_if_cancelled():
        if asked.stop_at is not None and len(metrics) >= asked.stop_at:
            raise StageCancelled("asked to")

    train(
        model,
        examples,
        objective,
        config=TrainerConfig(
            training=TrainingSpec(
                micro_batch_tokens=64,
                adapter=asked.adapter,
                activation_checkpointing=asked.activation_checkpointing,
            ),
            hyperparameters=ResolvedHyperparameters(
                n_epochs=asked.n_epochs,
                batch_size=asked.batch_size,
                learning_rate=asked.learning_rate,
                learning_rate_multiplier=1.0,
            ),
            seed=1,
        ),
        checkpoints=CheckpointsSpec(every_steps=3),
        context=StageContext(
            workdir=folder,
            scratch=folder,
            device="cpu",
            report=report,
            progress=lambda done, total, unit: None,
            log=lambda level, message: None,
            checkpoint=lambda step, values: None,
            raise_if_cancelled=raise_if_cancelled,
            team=team,
        ),
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in trained]
    result = {
        "metrics": metrics,
        "weights": torch.cat([p.detach().flatten() for p in whole]),
        "state": objective.state(),
        "num_bytes": num_bytes,
        "held": [(p.numel(), p.to_local().numel()) for p in trained if isinstance(p, DTensor)],
    }
    if asked.objective == "reward":
        scored = model.score(examples[:7])
        result["scores"] = torch.cat(scored)
        model = model.backbone
    save_model(model, folder / "saved", team=team)
    if team.is_first:
        [path] = (folder / "saved").glob("*.safetensors")
        result["saved"] = load_file(path)
    return result


def run_compiled(team, asked):
    """Take two steps with compiled layers; return the weights and what was warned of."""
    model, examples, warnings = model_of(asked), drawn_examples(asked.longest_prompt), []
    engine = Engine(
        model,
        compile=True,
        compile_backend="eager",
        on_warning=warnings.append,
        within=team.spread(model, device="cpu"),
    )
    trainer = Trainer(engine, learning_rate=asked.learning_rate, total_steps=2, team=team)
    for first in (0, 4):
        batch = examples[first : first + 4]
        trainer.step(batch, lambda values, mask, places: -values.sum(1), normaliser=4)
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return {"weights": torch.cat([p.detach().flatten() for p in whole]), "warnings": warnings}


def run(folder, team, asked):
    """Do what is asked, in this process."""
    return run_compiled(team, asked) if asked.compiled else run_training(folder, team, asked)


def alone(folder, asked):
    """Train in one process."""
    folder.mkdir(parents=True)
    return run(folder, Team(), asked)


def member(rank, size, folder, runs):
    torch.set_num_threads(1)
    store = f"file://{folder}/met"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    results = []
    for asked in runs:
        place = Path(folder) / asked.name
        place.mkdir(exist_ok=True)
        try:
            team = (ShardedTeam if asked.sharded else Team).joined()
            result = run(place, team, asked)
        except (NumericalError, StageCancelled) as error:
            result = {"error": type(error).__name__}
        results.append(result)
    torch.save(results, Path(folder) / f"results-{rank}.pt")
    dist.destroy_process_group()
    # caches of DTensor keep gloo's threads, which must not outlive the interpreter
    os._exit(0)


def run_team(folder, runs: Sequence[Asked], *, size=2):
    """Let a team run all of ``runs``, one after the other; return each worker's results."""
    mp.spawn(member, (size, str(folder), list(runs)), nprocs=size)
    (folder / "met").unlink(missing_ok=True)
    return [torch.load(folder / f"results-{rank}.pt") for rank in range(size)]
