"""VRPO in a page, by the library alone: no server, no Ray, no database.

The pairs are drawn as the quickstart draws them: two answers of the small model to each opening of
a review, the happier one preferred with a Bradley-Terry law. Then: sample the reference policy, fit
p_eta on other folds' labels, compute the anchor's log-probs once, and train.

    python examples/library.py --prompts 256 --out weights
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import review_data
import sentiment_pairs
import torch
from torch import Tensor

from vrpo import (
    ControlWeight,
    Engine,
    Trainer,
    assign_folds,
    control_statistics,
    cross_fit,
    epoch_order,
    make_example,
    sample_completions,
    vrpo_loss,
)
from vrpo.contract.task import ModelSource
from vrpo.models import load_model, load_tokenizer

BETA, BATCH, K, FOLDS = 0.1, 16, 4, 5


def train(
    folder: Path,
    rows: Sequence[dict[str, object]],
    *,
    epochs: int,
    learning_rate: float = 1e-4,
    seed: int = 0,
    report: Callable[[int, float, float], None] = lambda step, loss, weight: None,
) -> torch.nn.Module:
    """Return the model at ``folder``, trained on preference rows; ``report`` gets every step."""
    model, tokenizer = (
        load(ModelSource(path=str(folder))) for load in (load_model, load_tokenizer)
    )
    end = int(tokenizer.eos_token_id)
    prompts = [str(row["input"]["messages"][0]["content"]) for row in rows]
    prompt_ids = [[int(tokenizer.bos_token_id), *_ids(tokenizer, prompt)] for prompt in prompts]

    # pi_ref: K samples of each prompt, whatever their batches
    samples = sample_completions(
        model, prompt_ids, samples_per_prompt=K, max_new_tokens=sentiment_pairs.MAX_NEW_TOKENS,
        eos_ids={end}, pad_id=end, seed=seed,
    )  # fmt: skip
    examples = [
        make_example(prompt, (*_labelled(tokenizer, row, end), *(c.ids for c in group)))
        for prompt, row, group in zip(prompt_ids, rows, samples, strict=True)
    ]

    # one pass of the frozen model: the anchor's log-probs, and the features that p_eta reads
    engine = Engine(model)
    scored = engine.score(examples, features=True)
    anchor_NC = torch.stack([outputs.logprobs_C for outputs in scored])
    features_NCF = torch.stack([outputs.features_CF for outputs in scored])

    # p_eta: a prompt is judged by a model that has not seen its label
    label_N = torch.ones(len(rows))  # column 0 is the preferred one
    folds = assign_folds(prompts, folds=FOLDS, seed=seed)
    fitted = cross_fit(features_NCF[:, 0], features_NCF[:, 1], label_N, folds, kind="gpm")
    print(f"p_eta is right on {fitted.accuracy:.0%} of the pairs that it has not seen")
    preference_NCC = torch.stack(
        [fitted.models[fold].logits(fitted.models[fold].embed(features_CF)[None])[0].sigmoid()
         for fold, features_CF in zip(folds, features_NCF, strict=True)]
    ).detach()  # fmt: skip

    model.requires_grad_(True)
    control = ControlWeight("auto")
    batches = [
        order[start : start + BATCH]
        for order in (epoch_order(len(rows), epoch=epoch, seed=seed) for epoch in range(epochs))
        for start in range(0, len(order), BATCH)
    ]
    trainer = Trainer(engine, learning_rate=learning_rate, total_steps=len(batches))
    for step, batch in enumerate(batches):
        chosen = [examples[index] for index in batch]

        def loss(
            logprobs_bC: Tensor, _: Tensor, places: Sequence[int], batch: Sequence[int] = batch
        ) -> Tensor:
            rows_b = [batch[place] for place in places]
            return vrpo_loss(
                BETA * (logprobs_bC - anchor_NC[rows_b]), preference_NCC[rows_b], label_N[rows_b],
                control_weight=control.current, margin_clip=10.0,
            )  # fmt: skip

        # the next batch's rewards before and after the step: the direction for lambda's estimate
        following = batches[(step + 1) % len(batches)]
        before = torch.stack([o.logprobs_C for o in engine.score([examples[i] for i in following])])
        result = trainer.step(chosen, loss, normaliser=len(batch))
        after = torch.stack([o.logprobs_C for o in engine.score([examples[i] for i in following])])
        control.update(
            *control_statistics(
                BETA * (after - anchor_NC[following]), BETA * (after - before),
                preference_NCC[following], label_N[following], pool=True, margin_clip=10.0,
            )
        )  # fmt: skip
        report(step, float(result.losses_B.mean()), control.current)
    return model


def _labelled(tokenizer: object, row: dict[str, object], end: int) -> list[list[int]]:
    completions = []
    for field in ("preferred_output", "non_preferred_output"):
        [answer] = row[field]
        is_cut_off = answer["finish_reason"] == "length"
        completions.append(_ids(tokenizer, answer["content"]) + ([] if is_cut_off else [end]))
    return completions


def _ids(tokenizer: object, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def main() -> None:
    """Train the small model of the examples and write its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    openings = review_data.prompts("train_prompts", count=arguments.prompts)
    folder = sentiment_pairs.EXAMPLES / "tiny-reviews"
    judge = sentiment_pairs.EXAMPLES / "sentiment_judge.safetensors"
    rows = sentiment_pairs.make_pairs(openings, model=folder, judge=judge, seed=0)

    def report(step: int, loss: float, weight: float) -> None:
        print(f"step {step + 1}: loss {loss:.4f}, lambda {weight:.2f}")

    train(folder, rows, epochs=arguments.epochs, report=report).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
