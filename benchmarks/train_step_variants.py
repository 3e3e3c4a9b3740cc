"""The training steps that `train_step.py` compares, each over the same model and the same pairs.

A variant adds the gradient of the mean loss over all pairs to the model's, forward and backward,
without an optimizer step. Before any is timed, `check_equal` asks them for the same log-probs and
the same gradients.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from train_step_pairs import Pair
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from vrpo.engine import Engine, Example, make_example, token_budget_groups
from vrpo.losses import vrpo_loss
from vrpo.models import add_lora

BETA = 0.1
TOLERANCE = 1e-3
"""Largest difference of a sequence's log-prob, and of a gradient relative to its norm, that
``check_equal`` takes in float32."""
Step = Callable[[], None]
SAME_GRADIENTS = (("trl", "vrpo-0"), ("padded", "vrpo-2"))


def load_policy(model: str, folder: Path, *, vocabulary: int, lora: bool, gpu: bool) -> nn.Module:
    """Return SmolLM2, or a small Llama of random weights: float32, or bfloat16 on a GPU."""
    if model == "smollm2":
        policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        policy = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary, hidden_size=256, intermediate_size=704,
                num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
                max_position_embeddings=2048, tie_word_embeddings=True,
                attn_implementation="sdpa",
            )
        )  # fmt: skip
    if gpu:
        policy.to("cuda", torch.bfloat16)
    policy.eval()
    return add_lora(policy, r=16, alpha=32).eval() if lora else policy


class Steps:
    """The variants over one model and its pairs, built when they are first asked for."""

    def __init__(self, model: nn.Module, tokenizer: object, pairs: list[Pair]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._pairs = pairs
        self._device = next(model.parameters()).device

    def build(self, name: str) -> tuple[Step, dict[tuple[int, ...], float]]:
        """Return a step, and log-probs by the ids of prompt and completion that it trains on."""
        if name == "trl":
            return self._trl()
        if name == "padded":
            return self._padded()
        return self._packed(int(name.removeprefix("vrpo-")))

    def _packed(self, samples: int) -> tuple[Step, dict[tuple[int, ...], float]]:
        """Return this engine's step; a micro-batch is one row."""
        engine = Engine(self._model, path="packed")
        examples = self._examples(samples)
        groups = token_budget_groups(
            [example.num_tokens for example in examples], max_tokens=engine.max_row_tokens
        )

        def step() -> None:
            for group in groups:
                found = torch.stack(engine.logprobs([examples[i] for i in group], grad=True))
                (_loss(found).sum() / len(examples)).backward()

        return step, _by_ids(examples, engine.logprobs(examples, grad=False))

    def _padded(self) -> tuple[Step, dict[tuple[int, ...], float]]:
        """Return the step over four padded rows of each pair, with logits for every position."""
        examples = self._examples(2)

        def step() -> None:
            for example in examples:
                found = _padded_logprobs(self._model, example, self._device)
                (_loss(found[None]).sum() / len(examples)).backward()

        with torch.no_grad():
            found = [_padded_logprobs(self._model, e, self._device) for e in examples]
        return step, _by_ids(examples, found)

    def _trl(self) -> tuple[Step, dict[tuple[int, ...], float]]:
        """Return TRL's own training step over micro-batches of one pair."""
        from datasets import Dataset  # noqa: PLC0415 - needed by this variant alone
        from trl import DPOConfig, DPOTrainer  # noqa: PLC0415

        class OnTokens(DPOTrainer):
            """It is given ids, so that all variants see the same tokens."""

            def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
                return dataset

        model, on_gpu = self._model, self._device.type == "cuda"
        config = DPOConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=1,
            gradient_checkpointing=False, bf16=on_gpu, precompute_ref_log_probs=True,
            use_cpu=not on_gpu, max_length=2048, report_to=[], beta=BETA,
            dataloader_pin_memory=False,
        )  # fmt: skip
        rows = [
            {"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected}
            for p in self._pairs
        ]
        trainer = OnTokens(
            model, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=self._tokenizer,
        )  # fmt: skip
        trainer.current_gradient_accumulation_steps = len(rows)
        batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]

        def step() -> None:
            for batch in batches:
                trainer.training_step(model, batch)
            model.eval()

        # the reference log-probs are the policy's own: nothing has been trained
        found: dict[tuple[int, ...], float] = {}
        for batch in batches:
            for row, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
                ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
                found[tuple(ids.tolist())] = float(batch[name])
        return step, found

    def _examples(self, samples: int) -> list[Example]:
        return [make_example(pair.prompt, pair.completions(samples)) for pair in self._pairs]


def _loss(logprobs_bC: Tensor) -> Tensor:
    """Return the loss with the anchor at the policy and a preference model that is undecided."""
    rewards = BETA * (logprobs_bC - logprobs_bC.detach())
    count = rewards.shape[1]
    preference = torch.full((len(rewards), count, count), 0.5, device=rewards.device)
    label = torch.ones(len(rewards), device=rewards.device)
    return vrpo_loss(rewards, preference, label, control_weight=0.5)


def _padded_logprobs(model: nn.Module, example: Example, device: torch.device) -> Tensor:
    start = len(example.prompt_ids)
    width = start + max(map(len, example.completions))
    input_ids = torch.zeros(len(example.completions), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for place, completion in enumerate(example.completions):
        ids = torch.tensor([*example.prompt_ids, *completion])
        input_ids[place, : len(ids)] = ids
        mask[place, : len(ids)] = 1
    input_ids, mask = input_ids.to(device), mask.to(device)
    logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    logprobs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    taken = logprobs.gather(2, input_ids[:, 1:, None]).squeeze(2)
    counted = mask[:, 1:] * (torch.arange(1, width, device=device) >= start)
    return (taken * counted).sum(dim=1)


def _by_ids(examples: list[Example], logprobs: list[Tensor]) -> dict[tuple[int, ...], float]:
    return {
        (*example.prompt_ids, *completion): value
        for example, values_C in zip(examples, logprobs, strict=True)
        for completion, value in zip(example.completions, values_C.tolist(), strict=True)
    }


def check_equal(
    logprobs: dict[str, dict[tuple[int, ...], float]],
    gradients: dict[str, Tensor],
    *,
    is_exact: bool,
) -> dict[str, float]:
    """Return the largest differences found.

    Each variant's log-probs against those of the one with most completions, sequence by sequence;
    gradients between the variants that minimise the same loss. Raises ``AssertionError`` where one
    is above ``TOLERANCE`` and ``is_exact`` asks for that: in bfloat16 the layouts round apart.
    """
    whole = max(logprobs.values(), key=len)
    apart = {
        name: max(abs(value - whole[ids]) for ids, value in found.items())
        for name, found in logprobs.items()
    }
    for left, right in SAME_GRADIENTS:
        if left in gradients and right in gradients:
            difference = gradients[left] - gradients[right]
            apart[f"gradient of {left} and {right}"] = float(
                difference.norm() / gradients[right].norm()
            )
    assert not is_exact or all(value <= TOLERANCE for value in apart.values()), apart
    return apart


def gradient_of(model: nn.Module) -> Tensor:
    """Return the gradient of every trained matrix of attention's output, as one vector."""
    found = [
        parameter.grad.flatten().clone()
        for name, parameter in model.named_parameters()
        if "o_proj" in name and parameter.grad is not None
    ]
    return torch.cat(found)
