"""Policy optimisation learns: a reward that counts a token makes the policy say it more often."""

from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vrpo.engine import Engine, Trainer
from vrpo.generation import sample_completions
from vrpo.rl.objective import PolicyObjective
from vrpo.rl.rollout import roll_out, rollout_metrics

LIKED = 7
PROMPTS = [(3, 4), (5,), (8, 9, 10), (11, 12)]
STEPS = 20


def tiny_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


def count_liked(examples):
    return [
        torch.tensor([float(completion.count(LIKED)) for completion in example.completions])
        for example in examples
    ]


def optimise(algorithm, beta, *, updates=1):
    engine, anchor = Engine(tiny_llama()), Engine(tiny_llama())
    trainer = Trainer(
        engine,
        learning_rate=1e-2,
        total_steps=STEPS * updates,
        schedule="constant",
        gradient_caching=False,
        forward=engine.token_logprobs,
    )
    history = []
    for step in range(STEPS):
        samples = sample_completions(
            engine.model,
            PROMPTS,
            samples_per_prompt=8,
            max_new_tokens=6,
            eos_ids={1},
            pad_id=1,
            seed=step,
        )
        rollout = roll_out(
            PROMPTS,
            samples,
            score=count_liked,
            normalise=lambda scores: scores,
            policy=partial(engine.token_logprobs, grad=False),
            anchor=partial(anchor.token_logprobs, grad=False),
        )
        objective = PolicyObjective(
            rollout, algorithm=algorithm, beta=beta, clip_range=0.2, max_tokens=512
        )
        for _ in range(updates):
            result = trainer.step(
                objective.examples, objective.loss, normaliser=objective.num_completions
            )
        history.append(
            rollout_metrics(rollout, beta=beta) | objective.clip_metrics(result.values_BC)
        )
    return history


@pytest.mark.parametrize(("algorithm", "updates"), [("rloo", 1), ("grpo", 1), ("rloo", 3)])
def test_the_liked_token_is_said_much_more_often(algorithm, updates):
    history = optimise(algorithm, 0.01, updates=updates)
    reward = [metrics["reward"] for metrics in history]
    # at most 6 liked tokens in a completion; by chance 6 / 13, with a standard error of 0.12
    assert sum(reward[:2]) / 2 < 0.9
    assert sum(reward[-4:]) / 4 > 2.5
    assert history[-1]["objective/kl"] > history[0]["objective/kl"]
    if updates > 1:
        assert any(metrics["clip_ratio/region_mean"] > 0 for metrics in history)


def test_a_larger_beta_keeps_the_policy_nearer_to_its_anchor():
    loose, tight = optimise("rloo", 0.01)[-1], optimise("rloo", 1.0)[-1]
    assert tight["objective/kl"] < loose["objective/kl"] / 2
    assert tight["reward"] < loose["reward"]
