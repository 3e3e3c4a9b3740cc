"""Trains the tiny language model of the quickstart, from scratch, on film reviews.

    python examples/train_tiny_lm.py --output examples/tiny-reviews --bf16   # 35 minutes

A Llama of 2.56 M parameters with its own byte-level BPE vocabulary. It learns first from windows of
128 tokens taken anywhere in the reviews, then, for the larger part of the run, from their
beginnings alone, because beginnings are all that the experiment asks of it. Weight matrices are
trained with Muon, embeddings and norms with AdamW, both on one warm-up, constant, linear-decay
schedule. The only text it sees is the `language_model` part of review_data.py.

The run is cut by wall-clock time (`--minutes`), so a faster machine makes a better model and no two
runs make quite the same one. It saves a checkpoint every four minutes under `--work` and goes on
from there when it is started again.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import review_data
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 4096
WINDOW = 128  # tokens a row
HELDOUT_EVERY = 40  # one review in so many measures the perplexity and is not trained on


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts BOS before every text it encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[BOS, EOS, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=2 * WINDOW,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, *, hidden: int, layers: int) -> LlamaForCausalLM:
    """A randomly initialised Llama; the last matrix of each block starts small, as in GPT-2."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=2 * WINDOW,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data.mul_((2 * layers) ** -0.5)
    return model


def rows_of(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> tuple[list[list[int]], ...]:
    """(beginnings, later windows) of every text, at most WINDOW ids each; EOS marks a true end."""
    beginnings: list[list[int]] = []
    later: list[list[int]] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        ids = [*encoding.ids, tokenizer.eos_token_id]
        windows = [ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)]
        beginnings.append(windows[0])
        later.extend(window for window in windows[1:] if len(window) == WINDOW)
    return beginnings, later


def batches(
    rows: list[list[int]], *, tokens: int, pad: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, labels), both (B, T), rows of like length together; every epoch a new order."""
    for epoch in range(1_000_000):
        chance = random.Random(f"{seed}-{epoch}")
        order = sorted(rows, key=lambda row: (len(row) // 8, chance.random()))
        groups: list[list[list[int]]] = [[]]
        for row in order:
            if (len(groups[-1]) + 1) * len(row) > tokens:
                groups.append([])
            groups[-1].append(row)
        chance.shuffle(groups)
        for group in groups:
            longest = max(len(row) for row in group)
            ids = torch.full((len(group), longest), pad)
            labels = torch.full((len(group), longest), -100)
            for at, row in enumerate(group):
                ids[at, : len(row)] = labels[at, : len(row)] = torch.tensor(row)
            yield ids, labels


def token_loss(model: torch.nn.Module, ids: Tensor, labels: Tensor, *, bf16: bool) -> Tensor:
    """Mean cross-entropy in nats a token; right padding needs no mask in a causal model."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )


@torch.no_grad()
def heldout_loss(model: LlamaForCausalLM, rows: list[list[int]], *, pad: int) -> float:
    """Mean cross-entropy in float32 over whole held-out beginnings, in nats a token."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        total += float(token_loss(model, ids, ids, bf16=False)) * (len(row) - 1)
        count += len(row) - 1
    return total / count


def learning_rate_factor(done: float, *, warmup: float = 0.01, decay: float = 0.45) -> float:
    """Share of the top rate when the share `done` of the run is behind us."""
    if done < warmup:
        return done / warmup
    return min(1.0, max(0.0, 1.0 - done) / decay) * 0.97 + 0.03


def optimizers(
    model: LlamaForCausalLM, *, matrix_rate: float, other_rate: float
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the weight matrices of the blocks, AdamW for embeddings and norms."""
    matrices = [w for n, w in model.named_parameters() if w.ndim == 2 and "embed" not in n]
    others = [w for n, w in model.named_parameters() if w.ndim != 2 or "embed" in n]
    return (
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.02, momentum=0.95),
        torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.97), weight_decay=0.0),
    )


def arguments() -> argparse.Namespace:
    """Read the command line; the defaults and --bf16 made the committed model."""
    parser = argparse.ArgumentParser(description="Train examples/tiny-reviews from scratch.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path(".vrpo/tiny-lm"), help="checkpoints")
    parser.add_argument("--minutes", type=float, default=35.0, help="wall-clock length of the run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--matrix-rate", type=float, default=0.015)
    parser.add_argument("--other-rate", type=float, default=0.004)
    parser.add_argument("--first-phase", type=float, default=0.35, help="share on all windows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast; for CPUs with avx512_bf16")
    return parser.parse_args()


class Run:
    """The model, its optimizers and how far they are: all that a checkpoint holds."""

    def __init__(self, model: LlamaForCausalLM, *, matrix_rate: float, other_rate: float) -> None:
        self.model = model
        self.rates = (matrix_rate, other_rate)
        self.steppers = optimizers(model, matrix_rate=matrix_rate, other_rate=other_rate)
        self.state = {"seconds": 0.0, "step": 0, "tokens": 0}

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        saved = torch.load(checkpoint, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for stepper, stepper_state in zip(self.steppers, saved["optimizers"], strict=True):
            stepper.load_state_dict(stepper_state)
        self.state = saved["state"]

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint, replacing the last one only when this one is complete."""
        payload = {
            "model": self.model.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in self.steppers],
            "state": self.state,
        }
        torch.save(payload, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    def step(self, ids: Tensor, labels: Tensor, *, done: float, bf16: bool) -> float:
        """Make one update on a batch (B, T) and return its loss, in nats a token."""
        for stepper, top in zip(self.steppers, self.rates, strict=True):
            for group in stepper.param_groups:
                group["lr"] = top * learning_rate_factor(done)
        loss = token_loss(self.model, ids, labels, bf16=bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for stepper in self.steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        self.state["step"] += 1
        self.state["tokens"] += ids.numel()
        return float(loss.detach())


def main() -> None:
    """Train for the time given, then write the model and its tokenizer."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)

    texts = [review.text for review in review_data.reviews("language_model")]
    tokenizer = train_tokenizer(texts)
    heldout = rows_of(texts[::HELDOUT_EVERY], tokenizer)[0]
    trained = [text for at, text in enumerate(texts) if at % HELDOUT_EVERY]
    beginnings, later = rows_of(trained, tokenizer)
    pad = tokenizer.pad_token_id
    everything = batches(beginnings + later, tokens=args.batch_tokens, pad=pad, seed=args.seed)
    openings = batches(beginnings, tokens=args.batch_tokens, pad=pad, seed=args.seed + 1)

    model = new_model(tokenizer, hidden=args.hidden, layers=args.layers)
    print(
        f"{model.num_parameters():,} parameters; {len(beginnings)} beginnings, {len(later)} later"
    )
    run = Run(model, matrix_rate=args.matrix_rate, other_rate=args.other_rate)
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
        print("going on from", run.state)

    last_print = last_save = run.state["seconds"]
    began = time.monotonic() - run.state["seconds"]
    smooth = None
    while run.state["seconds"] < args.minutes * 60:
        done = run.state["seconds"] / (args.minutes * 60)
        ids, labels = next(everything if done < args.first_phase else openings)
        loss = run.step(ids, labels, done=done, bf16=args.bf16)
        smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
        run.state["seconds"] = time.monotonic() - began
        if run.state["seconds"] - last_print > 30:
            last_print = run.state["seconds"]
            print(json.dumps({**run.state, "loss": round(smooth, 4)}), flush=True)
        if run.state["seconds"] - last_save > 240:
            last_save = run.state["seconds"]
            run.save(checkpoint)
            print(json.dumps({"heldout": heldout_loss(model, heldout[:150], pad=pad)}), flush=True)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(json.dumps({**run.state, "final_heldout": heldout_loss(model, heldout, pad=pad)}))


if __name__ == "__main__":
    main()
