"""vLLM as the sampler: what is asked of it, what is made of its answers, and its absence."""

import importlib.util
from types import SimpleNamespace

import pytest

from vrpo.contract.task import ModelSource
from vrpo.errors import ModelNotAllowed
from vrpo.sampling_vllm import completions_of, sample_with_vllm, sampling_parameters

OPTIONS = {
    "samples_per_prompt": 2,
    "max_new_tokens": 8,
    "temperature": 1.0,
    "top_p": 1.0,
    "eos_ids": {7, 2},
    "seed": 3,
}
REPORTS = {"progress": lambda done, total: None, "raise_if_cancelled": lambda: None}


def test_only_end_tokens_stop_a_completion_and_no_text_is_asked_for():
    asked = sampling_parameters(**OPTIONS)

    assert asked["stop_token_ids"] == [2, 7]
    assert (asked["n"], asked["max_tokens"], asked["seed"]) == (2, 8, 3)
    assert asked["detokenize"] is False


def test_an_answer_becomes_completions_that_say_whether_they_were_cut_off():
    outputs = [
        SimpleNamespace(token_ids=[5, 2], finish_reason="stop", cumulative_logprob=-1.5),
        SimpleNamespace(token_ids=[5, 6], finish_reason="length", cumulative_logprob=-2.5),
    ]

    stopped, cut_off = completions_of(SimpleNamespace(outputs=outputs))

    assert (stopped.ids, stopped.finish_reason, stopped.logprob) == ((5, 2), "stop", -1.5)
    assert (cut_off.ids, cut_off.finish_reason, cut_off.logprob) == ((5, 6), "length", -2.5)


def test_an_adapter_is_refused_by_name():
    source = ModelSource(path="base", adapter_path="adapter")
    with pytest.raises(ModelNotAllowed, match="use reference.sampler 'transformers'"):
        sample_with_vllm(source, [[1]], **OPTIONS, **REPORTS)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_extra_is_named():
    with pytest.raises(ModelNotAllowed, match=r"pip install 'vrpo\[vllm\]'"):
        sample_with_vllm(ModelSource(path="base"), [[1]], **OPTIONS, **REPORTS)
