"""A reward model: a language model's last hidden state, and a linear head that makes it a number.

The state is that of a completion's last token, behind its prompt, so the reward depends on both
(the authors' code scores completions without their prompt). Trained with the VRPO loss on pairs,
where the head needs no bias: a constant cancels in every margin.

head.safetensors    the head's weight
reward_model.json   hidden size, centre, scale, and what was measured when it was fitted
model/              the backbone's weights, or its adapter

Letters: C completions of an example, H hidden size.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from vrpo.contract.task import ModelSource
from vrpo.engine import Engine, Example
from vrpo.engine.engine import unwrapped
from vrpo.errors import NumericalError
from vrpo.models import load_model

BACKBONE: Final = "model"
HEAD: Final = "head.safetensors"
DESCRIPTION: Final = "reward_model.json"
HEAD_GAIN: Final = 10.0
"""Factor of the head's output. A fresh head beside a trained backbone must move faster; under Adam,
this has the effect of ten times the learning rate for the head alone."""


class RewardModel(nn.Module):
    """Rewards of completions, as numbers without a unit.

    ``engine`` runs a causal language model, or one with an adapter; what of it is trainable stays
    so. The head starts at zero, so that training starts from no preference: a random head, as in
    Stiennon et al. 2020, costs labels to unlearn. ``center`` and ``scale`` are for ``normalised``
    alone.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.backbone = engine.model
        size = int(unwrapped(engine.model).config.get_text_config().hidden_size)
        self.head = nn.Linear(size, 1, bias=False, device=engine.device)
        nn.init.zeros_(self.head.weight)
        self.center = 0.0
        self.scale = 1.0

    def scores(self, examples: Sequence[Example], *, grad: bool) -> list[Tensor]:
        """Return (C,) float32 rewards of each example's completions, as trained."""
        hidden = self.engine.last_hidden(examples, grad=grad)
        with torch.set_grad_enabled(grad):
            return [HEAD_GAIN * self.head(states_CH).squeeze(1) for states_CH in hidden]

    def score(
        self,
        examples: Sequence[Example],
        *,
        progress: Callable[[int, int], None] | None = None,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """Return the rewards of many examples, in their order, without gradient, on the CPU.

        ``progress(done, total)`` counts examples. Raises ``NumericalError`` for a reward that is
        not finite.
        """
        results: list[Tensor] = [torch.empty(0)] * len(examples)
        done = 0
        self.engine.check(examples)
        budget = self.engine.max_row_tokens
        for group in self.engine.micro_batches(examples, max_tokens=budget):
            if raise_if_cancelled:
                raise_if_cancelled()
            found = self.scores([examples[index] for index in group], grad=False)
            for index, scores_C in zip(group, found, strict=True):
                results[index] = scores_C.cpu()
                if not bool(torch.isfinite(results[index]).all()):
                    raise NumericalError(f"the reward of example {index} is not finite")
            done += len(group)
            if progress:
                progress(done, len(examples))
        return results

    def normalised(self, scores: Tensor) -> Tensor:
        """Return rewards with mean 0 and deviation 1 where ``fit_moments`` took its rewards."""
        return (scores - self.center) / self.scale

    def fit_moments(self, scores_N: Tensor) -> None:
        """Take centre and scale from rewards, such as those of the anchor's samples.

        Rewards that are all equal have no scale; theirs stays 1.
        """
        self.center = float(scores_N.mean())
        spread = float(scores_N.std(correction=0))
        self.scale = spread if spread > 0 else 1.0


def save_reward_model(
    model: RewardModel,
    folder: Path,
    *,
    report: Mapping[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write the model under ``folder`` as safetensors and JSON, ``report`` beside it.

    ``weights`` are the backbone's, where the model itself holds a share of them alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    assert isinstance(model.backbone, PreTrainedModel | PeftModel)
    model.backbone.save_pretrained(str(folder / BACKBONE), state_dict=weights)
    weight_1H = model.head.weight.detach().cpu().contiguous()
    save_file({"weight": weight_1H}, folder / HEAD)
    description = {
        "hidden_size": weight_1H.shape[1],
        "center": model.center,
        "scale": model.scale,
        "report": dict(report or {}),
    }
    text = json.dumps(description, indent=2, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_reward_model(folder: Path, *, base: ModelSource, device: str = "cpu") -> RewardModel:
    """Return what ``save_reward_model`` wrote, not trainable; an adapter is merged into ``base``.

    Raises ``ModelNotAllowed`` for weights that cannot be had.
    """
    backbone = folder / BACKBONE
    is_adapter = (backbone / "adapter_config.json").exists()
    source = (
        base.model_copy(update={"adapter_path": str(backbone)})
        if is_adapter
        else ModelSource(path=str(backbone))
    )
    model = RewardModel(Engine(load_model(source, device=device)))
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with torch.no_grad():
        model.head.weight.copy_(load_file(folder / HEAD)["weight"])
    model.center, model.scale = description["center"], description["scale"]
    return model.requires_grad_(False)
