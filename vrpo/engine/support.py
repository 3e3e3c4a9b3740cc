"""Which models the packed path is exact for, and why another one is refused."""

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

PACKED_ARCHITECTURES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "gpt2"}
)
"""``config.model_type`` of the families whose packed log-probs are tested to be exact."""


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a peft wrapper (with its adapter layers), or itself."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return inner


def packed_refusal(model: PreTrainedModel) -> str | None:
    """Return why the packed path cannot take this model, or None where it can."""
    config = model.config.get_text_config()
    if config.model_type not in PACKED_ARCHITECTURES:
        return f"architecture {config.model_type!r} is not one of {sorted(PACKED_ARCHITECTURES)}"
    if getattr(config, "final_logit_softcapping", None):
        return "soft-capped logits"
    if getattr(config, "attn_logit_softcapping", None):
        return "soft-capped attention"
    if getattr(config, "use_bidirectional_attention", False):
        return "bidirectional attention"
    dropouts = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")
    if model.training and any(getattr(config, name, 0) for name in dropouts):
        return "dropout"
    return None


def shortest_window(model: PreTrainedModel) -> int | None:
    """Return the sliding window of the model's layers in tokens, None where all see everything."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if layers is not None:
        return window if "sliding_attention" in layers else None
    return window if getattr(config, "use_sliding_window", True) else None
