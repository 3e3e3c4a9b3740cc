"""Cost of a VRPO training step beside TRL's DPO and the reference implementation's layout.

    python benchmarks/train_step.py --pairs-file hh_harmless_pairs.jsonl.gz
    python benchmarks/train_step.py --model smollm2 --pairs 3 --lora --pairs-file ...

Forward, loss and backward over the same pairs in one process and one thread, no optimizer step:

    trl      TRL's DPOTrainer with its best settings on a CPU: float32, no checkpointing,
             precomputed reference log-probs, micro-batch 1
    padded   the layout of the reference implementation, K = 2: four padded rows of prompt and
             completion, all logits; its reference log-probs are given for free
    vrpo-K   this engine with K samples beside the labelled pair; K = 0 is DPO

Every round runs every variant once, in a new order; a ratio is taken within a round. Time is the
process's CPU time. Peak memory comes from one process per variant. One pass of each is discarded.
The samples are other pairs' completions, so that their lengths are those of the data.
"""

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from vrpo.engine import Engine, Example, make_example, token_budget_groups
from vrpo.losses import vrpo_loss
from vrpo.models import add_lora

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from convert_smollm2 import ensure

SAMPLES = (0, 2, 4, 8)
BETA = 0.1
Variant = Callable[[], None]


def read_pairs(path: Path, tokenizer: object, *, count: int, seed: int) -> list[dict[str, object]]:
    """Return pairs spread evenly over the order of lengths, each with 8 other completions."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rng = random.Random(seed)
    rng.shuffle(rows)
    rows = [row for row in rows[:600] if row["chosen"].strip() and row["rejected"].strip()]
    end = tokenizer.eos_token_id
    for row in rows:
        row["ids"] = [
            tokenizer(row[name], add_special_tokens=False).input_ids
            for name in ("prompt", "chosen", "rejected")
        ]
        row["ids"][1].append(end)
        row["ids"][2].append(end)
    rows = [row for row in rows if sum(map(len, row["ids"])) <= 1000]
    responses = [row["ids"][rng.randint(1, 2)] for row in rows]
    rows.sort(key=lambda row: sum(map(len, row["ids"])))
    chosen = [rows[int((place + 0.5) / count * len(rows))] for place in range(count)]
    for row in chosen:
        row["samples"] = [rng.choice(responses) for _ in range(max(SAMPLES))]
    return chosen


def load(model: str, *, lora: bool, device: str) -> tuple[nn.Module, object]:
    """Return the model, in float32 on a CPU and bfloat16 on a GPU, and SmolLM2's tokenizer."""
    folder = ensure()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model == "smollm2":
        policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        policy = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704,
                num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
                max_position_embeddings=2048, tie_word_embeddings=True,
                attn_implementation="sdpa",
            )
        )  # fmt: skip
    policy.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    policy.eval()
    return (add_lora(policy, r=16, alpha=32).eval() if lora else policy), tokenizer


def loss_of(logprobs_bC: Tensor) -> Tensor:
    """Return the loss with the anchor at the policy and a preference model that is undecided."""
    rewards = BETA * (logprobs_bC - logprobs_bC.detach())
    count = rewards.shape[1]
    preference = torch.full((len(rewards), count, count), 0.5, device=rewards.device)
    label = torch.ones(len(rewards), device=rewards.device)
    return vrpo_loss(rewards, preference, label, control_weight=0.5)


def ours(model: nn.Module, pairs: list[dict[str, object]], samples: int) -> Variant:
    """Return the packed step; a micro-batch is one row."""
    engine = Engine(model, path="packed")
    examples = [make_example(r["ids"][0], [*r["ids"][1:], *r["samples"][:samples]]) for r in pairs]
    groups = token_budget_groups(
        [example.num_tokens for example in examples], max_tokens=engine.max_row_tokens
    )

    def run() -> None:
        for group in groups:
            found = torch.stack(engine.logprobs([examples[i] for i in group], grad=True))
            (loss_of(found).sum() / len(examples)).backward()

    return run


def padded(model: nn.Module, pairs: list[dict[str, object]]) -> Variant:
    """Return the step over four padded rows of each pair, with logits for every position."""
    examples = [make_example(r["ids"][0], [*r["ids"][1:], *r["samples"][:2]]) for r in pairs]
    device = next(model.parameters()).device

    def run() -> None:
        for example in examples:
            found = _padded_logprobs(model, example, device)
            (loss_of(found[None]).sum() / len(examples)).backward()

    return run


def _padded_logprobs(model: nn.Module, example: Example, device: torch.device) -> Tensor:
    start = len(example.prompt_ids)
    width = start + max(map(len, example.completions))
    input_ids = torch.zeros(len(example.completions), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for place, completion in enumerate(example.completions):
        ids = torch.tensor(example.prompt_ids + completion)
        input_ids[place, : len(ids)] = ids
        mask[place, : len(ids)] = 1
    input_ids, mask = input_ids.to(device), mask.to(device)
    logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    logprobs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    taken = logprobs.gather(2, input_ids[:, 1:, None]).squeeze(2)
    counted = mask[:, 1:] * (torch.arange(1, width, device=device) >= start)
    return (taken * counted).sum(dim=1)


def trl(model: nn.Module, tokenizer: object, pairs: list[dict[str, object]]) -> Variant:
    """Return TRL's own training step over micro-batches of one pair."""
    from datasets import Dataset  # noqa: PLC0415 - needed by this variant alone
    from trl import DPOConfig, DPOTrainer  # noqa: PLC0415

    folder = tempfile.mkdtemp()
    config = DPOConfig(
        output_dir=folder, per_device_train_batch_size=1, gradient_checkpointing=False,
        bf16=next(model.parameters()).dtype == torch.bfloat16, precompute_ref_log_probs=True,
        use_cpu=next(model.parameters()).device.type == "cpu", max_length=2048, report_to=[],
        beta=BETA, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
    trainer = DPOTrainer(
        model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.current_gradient_accumulation_steps = len(pairs)
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]

    def run() -> None:
        for batch in batches:
            trainer.training_step(model, batch)
        model.eval()

    return run


def variants(arguments: argparse.Namespace, names: list[str]) -> dict[str, Variant]:
    """Return the asked variants over one model."""
    device = "cuda" if arguments.gpu else "cpu"
    model, tokenizer = load(arguments.model, lora=arguments.lora, device=device)
    pairs = read_pairs(arguments.pairs_file, tokenizer, count=arguments.pairs, seed=arguments.seed)
    built: dict[str, Variant] = {}
    for name in names:
        if name == "trl":
            built[name] = trl(model, tokenizer, pairs)
        elif name == "padded":
            built[name] = padded(model, pairs)
        else:
            built[name] = ours(model, pairs, int(name.removeprefix("vrpo-")))

    def fresh_gradients(run: Variant) -> Variant:
        def timed() -> None:
            model.zero_grad(set_to_none=True)
            run()
            if arguments.gpu:
                torch.cuda.synchronize()

        return timed

    return {name: fresh_gradients(run) for name, run in built.items()}


def token_counts(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the tokens that go through the model for each pair, by variant."""
    pairs = read_pairs(
        arguments.pairs_file, AutoTokenizer.from_pretrained(ensure()),
        count=arguments.pairs, seed=arguments.seed,
    )  # fmt: skip
    lengths = [[*map(len, row["ids"]), *map(len, row["samples"])] for row in pairs]
    counts = {
        "trl": sum(2 * (n[0] + max(n[1:3])) for n in lengths),
        "padded": sum(4 * (n[0] + max(n[1:5])) for n in lengths),
        **{f"vrpo-{k}": sum(sum(n[: 3 + k]) for n in lengths) for k in SAMPLES},
    }
    return {name: total / len(lengths) for name, total in counts.items()}


def peak_memory(arguments: argparse.Namespace, name: str) -> float:
    """Return the peak resident MiB of a process that runs one variant once."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def peak_resident_mib() -> float:
    """Return this process's own peak (Linux); ``getrusage`` would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main() -> None:
    """Time all variants, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs-file", type=Path, required=True)
    parser.add_argument("--model", choices=["small", "smollm2"], default="small")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", default="trl,padded,vrpo-0,vrpo-2,vrpo-4,vrpo-8")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if arguments.memory_of:
        from trl import DPOTrainer  # noqa: F401, PLC0415 - so that all carry the same libraries

        variants(arguments, [arguments.memory_of])[arguments.memory_of]()
        print(torch.cuda.max_memory_allocated() / 2**20 if arguments.gpu else peak_resident_mib())
        return

    names = arguments.variants.split(",")
    clock = time.perf_counter if arguments.gpu else time.process_time
    runs = variants(arguments, names)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rng = random.Random(arguments.seed)
    for _ in range(arguments.rounds):
        for name in rng.sample(names, len(names)):
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    tokens = token_counts(arguments)
    result = {
        "model": arguments.model, "lora": arguments.lora, "pairs": arguments.pairs,
        "rounds": arguments.rounds, "device": "cuda" if arguments.gpu else "cpu", "threads": 1,
        "load_average": os.getloadavg()[0], "torch": torch.__version__,
        "transformers": transformers.__version__,
        "variants": {
            name: {
                "seconds": spread(seconds[name]),
                "examples_per_second": arguments.pairs / statistics.median(seconds[name]),
                "speed_relative_to": {
                    other: spread([b / a for a, b in zip(seconds[name], seconds[other],
                                                         strict=True)])
                    for other in ("trl", "padded") if other in names
                },
                "tokens_per_example": tokens[name],
                "peak_memory_mib": None if arguments.no_memory else peak_memory(arguments, name),
            }
            for name in names
        },
    }  # fmt: skip
    print(table(result))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(table(result) + "\n", encoding="utf-8")


def table(result: dict[str, object]) -> str:
    """Return the result as a Markdown table."""
    lines = [
        "| variant | tokens / example | examples / s | speed / TRL (min-max) "
        "| speed / padded (min-max) | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in result["variants"].items():
        ratios = [
            f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})" if r else ""
            for r in (values["speed_relative_to"].get(other) for other in ("trl", "padded"))
        ]
        peak = values["peak_memory_mib"]
        lines.append(
            f"| {name} | {values['tokens_per_example']:.0f} | {values['examples_per_second']:.3f} "
            f"| {ratios[0]} | {ratios[1]} | {'' if peak is None else f'{peak:.0f}'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
