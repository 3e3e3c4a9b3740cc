"""Workers that share the sampling and the scoring find what one worker finds."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM, LlamaConfig

from vrpo.engine import Engine, make_example
from vrpo.engine.team import Team
from vrpo.stages.context import StageContext
from vrpo.stages.sharing import sample_shared, score_shared

pytestmark = pytest.mark.slow

PROMPTS = [list(range(3, 5 + (7 * i) % 11)) for i in range(9)]


def sampled_and_scored(team):
    """Return the completions of all prompts, their scores, and the progress that was told."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    told = []
    context = StageContext(
        workdir=Path(),
        scratch=Path(),
        device="cpu",
        report=lambda step, values: None,
        progress=lambda done, total, unit: None,
        log=lambda level, message: None,
        checkpoint=lambda step, values: None,
        raise_if_cancelled=lambda: None,
        team=team,
    )
    samples = sample_shared(
        context,
        model,
        PROMPTS,
        samples_per_prompt=3,
        max_new_tokens=7,
        eos_ids=frozenset({2}),
        pad_id=0,
        seed=4,
        temperature=1.0,
        top_p=1.0,
        progress=lambda done, total: told.append((done, total)),
        raise_if_cancelled=lambda: None,
    )
    examples = [
        make_example(prompt, [c.ids for c in group])
        for prompt, group in zip(PROMPTS, samples, strict=True)
    ]
    scored = score_shared(
        context, Engine(model), examples, features=True, progress=lambda done, total: None
    )
    return {
        "ids": [[c.ids for c in group] for group in samples],
        "logprobs": torch.cat([outputs.logprobs_C for outputs in scored]),
        "features": torch.cat([outputs.features_CF for outputs in scored]),
        "told": told[-1],
    }


def member(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/m", rank=rank, world_size=2)
    torch.save(sampled_and_scored(Team.joined()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_draw_and_score_what_one_does(tmp_path):
    mp.spawn(member, (str(tmp_path),), nprocs=2)
    alone = sampled_and_scored(Team())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["ids"] == alone["ids"]
        torch.testing.assert_close(found["logprobs"], alone["logprobs"], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["features"], alone["features"], rtol=0, atol=1e-5)
        assert found["told"] == alone["told"] == (9, 9)
