"""Sampling by vLLM, behind the interface of ``vrpo.generation``: for machines with a GPU.

Needs the extra ``vllm`` on the workers. vLLM's own random numbers decide the completions, so they
depend on its version, and are other ones than those of ``vrpo.generation``. Written against vLLM's
documented interface (``LLM.generate`` with ``SamplingParams`` of each prompt), and not run by this
project's tests, which have no GPU: they cover what is asked of it and what is made of its answers.
"""

from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any

from vrpo.contract.task import ModelSource
from vrpo.errors import ModelNotAllowed
from vrpo.generation import Completion

_AT_ONCE = 512
"""Prompts between two looks at whether the stage was asked to stop."""


def sample_with_vllm(
    source: ModelSource,
    prompts: Sequence[Sequence[int]],
    *,
    samples_per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos_ids: Collection[int],
    seed: int,
    progress: Callable[[int, int], None],
    raise_if_cancelled: Callable[[], None],
) -> list[list[Completion]]:
    """Return the completions of each prompt, as ``vrpo.generation.sample_completions`` does.

    Raises ``ModelNotAllowed`` where vLLM is not installed, or for an adapter that is not merged.
    """
    if source.adapter_path is not None:
        raise ModelNotAllowed(
            "reference.sampler 'vllm' samples from whole weights, and this reference is an adapter "
            "on a base model; use reference.sampler 'transformers'"
        )
    try:
        vllm: Any = import_module("vllm")
    except ImportError as error:
        raise ModelNotAllowed(
            "reference.sampler 'vllm' needs vLLM on the workers: pip install 'vrpo[vllm]', or use "
            "reference.sampler 'transformers'"
        ) from error
    model = vllm.LLM(
        model=source.path or source.hub_id,
        revision=source.revision,
        skip_tokenizer_init=True,
        trust_remote_code=False,
    )
    drawn: list[list[Completion]] = []
    for start in range(0, len(prompts), _AT_ONCE):
        raise_if_cancelled()
        part = prompts[start : start + _AT_ONCE]
        requests = [{"prompt_token_ids": list(ids)} for ids in part]
        asked = [
            vllm.SamplingParams(
                **sampling_parameters(
                    samples_per_prompt=samples_per_prompt,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    top_p=top_p,
                    eos_ids=eos_ids,
                    seed=seed + start + place,
                )
            )
            for place in range(len(part))
        ]
        drawn += [completions_of(answer) for answer in model.generate(requests, asked)]
        progress(len(drawn), len(prompts))
    return drawn


def sampling_parameters(
    *,
    samples_per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos_ids: Collection[int],
    seed: int,
) -> dict[str, Any]:
    """Return the arguments of ``vllm.SamplingParams``: no stop but the end tokens, no text."""
    return {
        "n": samples_per_prompt,
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop_token_ids": sorted(eos_ids),
        "logprobs": 0,
        "detokenize": False,
        "seed": seed,
    }


def completions_of(answer: Any) -> list[Completion]:
    """Return the completions of one ``vllm.RequestOutput``.

    ``finish_reason`` is ``stop`` behind an end token, which is the last id, and ``length`` where
    the completion was cut off. vLLM's log-probs are those of the model itself, before temperature.
    """
    return [
        Completion(
            tuple(int(token) for token in output.token_ids),
            "length" if output.finish_reason == "length" else "stop",
            float(output.cumulative_logprob),
        )
        for output in answer.outputs
    ]
