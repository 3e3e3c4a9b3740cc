"""Loads causal language models and tokenizers, from a local folder or a pinned hub revision.

Only safetensors weights are read, and no code that comes with a model is ever run.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vrpo.contract.task import ModelSource
from vrpo.errors import ModelNotAllowed


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside the weights.

    Raises ``ModelNotAllowed`` naming the model when it cannot be had.
    """
    place, options = _place(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise ModelNotAllowed(f"the tokenizer of {place!r} cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelNotAllowed(f"the tokenizer of {place!r} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_model(
    source: ModelSource, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Load weights for scoring or training, in evaluation mode (no dropout).

    ``dtype`` defaults to bfloat16 on a GPU and float32 on a CPU, where bfloat16 is many times
    slower. An adapter of the source is merged into the weights. Raises ``ModelNotAllowed`` for
    weights that are not safetensors or cannot be had.
    """
    place, options = _place(source)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            **options,
        )
        model, missing = loaded[0], sorted(loaded[1]["missing_keys"])
        if source.adapter_path is not None:
            _refuse_pickles(Path(source.adapter_path))
            adapted = PeftModel.from_pretrained(model, source.adapter_path)
            model = adapted.merge_and_unload()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelNotAllowed(f"the model {place!r} cannot be loaded: {error}") from error
    if missing:  # they were drawn at random
        names = ", ".join(missing[:3])
        raise ModelNotAllowed(f"the weights of {place!r} lack tensors of its architecture: {names}")
    assert isinstance(model, PreTrainedModel)
    placed: nn.Module = model
    placed.to(device).eval()
    return model


def load_embedder(source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """Load a sentence-embedding model, its tokenizer, and how many tokens it reads.

    Raises ``ModelNotAllowed`` for weights that are not safetensors or cannot be had.
    """
    place, options = _place(source)
    try:
        model = AutoModel.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelNotAllowed(f"the embedder {place!r} cannot be loaded: {error}") from error
    assert isinstance(model, PreTrainedModel)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    limit = min(int(tokenizer.model_max_length), context_length(model.config))
    frozen: nn.Module = model
    frozen.requires_grad_(False).eval()
    return model, tokenizer, limit


def trained_source(folder: Path, base: ModelSource) -> ModelSource:
    """Return where a training stage left its model: whole weights, or an adapter on ``base``."""
    if (folder / "adapter_config.json").exists():
        return base.model_copy(update={"adapter_path": str(folder)})
    return ModelSource(path=str(folder))


def context_length(config: PretrainedConfig) -> int:
    """Return how many tokens the model has positions for."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return sys.maxsize if found is None else int(found)


def load_context_length(source: ModelSource) -> int:
    """Return ``context_length`` of a model whose weights are not loaded."""
    place, options = _place(source)
    try:
        return context_length(AutoConfig.from_pretrained(place, **options))
    except (OSError, ValueError) as error:
        raise ModelNotAllowed(f"the model {place!r} cannot be loaded: {error}") from error


def add_lora(
    model: PreTrainedModel, *, r: int, alpha: int, dropout: float = 0.0, seed: int = 0
) -> PeftModel:
    """Freeze the weights and add a trainable low-rank adapter to every linear layer but the head.

    The adapter starts as zero, so the policy starts as the reference policy. ``seed`` decides the
    random half of the adapter.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


@contextmanager
def anchor(model: nn.Module) -> Iterator[None]:
    """Within it, the model is the one it was before its adapter: the anchor of the log-ratio."""
    context = model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
    with context:
        yield


def _place(source: ModelSource) -> tuple[str, dict[str, object]]:
    if source.path is not None:
        folder = Path(source.path)
        if not (folder / "config.json").is_file():
            raise ModelNotAllowed(
                f"{folder} holds no model: a local model is a folder with config.json, "
                "model.safetensors and the tokenizer's files"
            )
        _refuse_pickles(folder)
        return str(folder), {"local_files_only": True, "trust_remote_code": False}
    if source.hub_id is None or source.revision is None:
        raise ModelNotAllowed("a model needs a local folder, or a hub id with a revision")
    return source.hub_id, {
        "revision": source.revision,
        "local_files_only": source.local_files_only,
        "trust_remote_code": False,
    }


def _refuse_pickles(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    found = f"only {', '.join(pickles)}, whose format can run code" if pickles else "no weights"
    raise ModelNotAllowed(f"{folder} holds {found}; convert the weights to safetensors")
