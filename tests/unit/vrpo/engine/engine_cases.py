"""Tiny random models of every family, random examples, and log-probs by the plainest way."""

import random

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from vrpo.engine import make_example

VOCABULARY = 61
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "gpt2")
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TYPES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}


def tiny_model(family="llama", *, dtype=torch.float32, seed=0, **changes):
    torch.manual_seed(seed)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256,
            bos_token_id=1, eos_token_id=2, attn_implementation="sdpa", **changes,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    else:
        options = {**SHAPE, "attn_implementation": "sdpa"}
        if family == "mistral":
            options["sliding_window"] = None
        if family == "gemma3":
            options["layer_types"] = ["full_attention", "full_attention"]
        if family in ("qwen3", "gemma", "gemma2", "gemma3"):
            options["head_dim"] = 8
        config_type, model_type = TYPES[family]
        model = model_type(config_type(**{**options, **changes}))
    for parameter in model.parameters():  # norms and biases too: none may hide behind 0 or 1
        parameter.data += 0.08 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def draw_examples(count=4, *, seed=0, completions=(1, 6), lengths=(1, 14), prompts=(1, 30)):
    rng = random.Random(seed)

    def ids(low, high):
        return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(low, high))]

    return [
        make_example(ids(*prompts), [ids(*lengths) for _ in range(rng.randint(*completions))])
        for _ in range(count)
    ]


def plain_logprobs(model, example):
    """Each completion behind its prompt, alone, unpadded, with all logits."""
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    values = []
    for completion in example.completions:
        ids = torch.tensor([example.prompt_ids + completion])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)[len(example.prompt_ids) - 1 : -1]
        values.append(logprobs.gather(1, torch.tensor(completion)[:, None]).sum())
    return torch.stack(values)


def flat_gradient(model, value):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])


def weighted(logprobs):
    """A number that depends on every log-prob, each with a weight of its own."""
    flat = torch.cat(list(logprobs))
    return (torch.linspace(-1.0, 2.0, len(flat), dtype=flat.dtype) * flat).sum()
