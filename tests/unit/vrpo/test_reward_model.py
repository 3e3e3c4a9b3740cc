"""The reward model: what its scores depend on, how it is trained, and how it is kept."""

import pytest
import torch
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from vrpo.contract.task import ModelSource
from vrpo.control import ControlWeight
from vrpo.engine import Engine, Trainer, make_example
from vrpo.models import add_lora, load_model
from vrpo.reward import HEAD_GAIN, RewardModel, load_reward_model, save_reward_model
from vrpo.stages.objectives import PreferenceData, PreferenceObjective
from vrpo.stages.train_reward import freeze_unused_head

CONFIG = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
EXAMPLES = [
    make_example([3, 4, 5], [[6, 7], [8], [9, 10, 11]]),
    make_example([12, 13], [[14], [15, 16, 17, 18]]),
    make_example([19], [[20, 21], [22, 2]]),
]


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(tmp_path / "base")
    return ModelSource(path=str(tmp_path / "base"))


def reward_model(backbone):
    """Return a model whose head has left zero, so that rewards are easily told apart."""
    model = RewardModel(Engine(backbone))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    return model


def test_a_reward_is_the_head_on_the_last_tokens_state_behind_the_prompt(base):
    model = reward_model(load_model(base))
    plain = AutoModel.from_pretrained(base.path).eval()
    found = model.scores(EXAMPLES, grad=False)
    for example, scores_C in zip(EXAMPLES, found, strict=True):
        for completion, score in zip(example.completions, scores_C, strict=True):
            ids = torch.tensor([[*example.prompt_ids, *completion]])
            with torch.no_grad():
                state = plain(ids).last_hidden_state[0, -1]
            expected = HEAD_GAIN * model.head.weight[0] @ state
            torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-5)


def test_an_untrained_reward_model_prefers_nothing(base):
    scores = RewardModel(Engine(load_model(base))).score(EXAMPLES)
    assert torch.cat(scores).tolist() == [0.0] * 7


def test_scores_change_when_prompts_are_permuted(base):
    # the oracle's row 30: the authors' reward model never sees the prompt
    model = reward_model(load_model(base))
    permuted = [
        make_example(other.prompt_ids, example.completions)
        for example, other in zip(EXAMPLES, EXAMPLES[1:] + EXAMPLES[:1], strict=True)
    ]
    ours, theirs = model.score(EXAMPLES), model.score(permuted)
    for scores_C, others_C in zip(ours, theirs, strict=True):
        assert (scores_C - others_C).abs().min() > 1e-3


def test_scores_do_not_depend_on_what_else_is_scored(base):
    model = reward_model(load_model(base))
    together = model.score(EXAMPLES)
    for example, scores_C in zip(EXAMPLES, together, strict=True):
        torch.testing.assert_close(model.score([example])[0], scores_C, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_what_is_saved_scores_the_same_when_loaded(base, tmp_path, adapter):
    backbone = load_model(base)
    if adapter:
        backbone = add_lora(backbone, r=2, alpha=4)
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.5)
    model = reward_model(backbone)
    model.fit_moments(torch.cat(model.score(EXAMPLES)))
    expected = [model.normalised(scores_C) for scores_C in model.score(EXAMPLES)]
    save_reward_model(model, tmp_path / "reward", report={"accuracy": 0.5})
    files = {path.suffix for path in (tmp_path / "reward").rglob("*") if path.is_file()}
    assert files <= {".safetensors", ".json", ".md"}
    loaded = load_reward_model(tmp_path / "reward", base=base)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for scores_C, before_C in zip(loaded.score(EXAMPLES), expected, strict=True):
        torch.testing.assert_close(loaded.normalised(scores_C), before_C, atol=1e-4, rtol=1e-4)


def test_moments_make_the_anchors_rewards_standard(base):
    model = reward_model(load_model(base))
    rewards = torch.tensor([1.0, 2.0, 6.0])
    model.fit_moments(rewards)
    assert model.center == pytest.approx(3.0)
    assert model.scale == pytest.approx((14 / 3) ** 0.5)
    assert model.normalised(rewards).mean().item() == pytest.approx(0.0, abs=1e-6)
    model.fit_moments(torch.tensor([2.0, 2.0]))
    assert model.normalised(torch.tensor([2.5])).tolist() == [0.5]


def test_the_head_of_the_language_model_is_trained_only_where_it_is_the_embedding():
    tied = LlamaForCausalLM(LlamaConfig(**CONFIG))
    freeze_unused_head(tied)
    assert tied.lm_head.weight.requires_grad
    untied = LlamaForCausalLM(LlamaConfig(**CONFIG | {"tie_word_embeddings": False}))
    freeze_unused_head(untied)
    assert not untied.lm_head.weight.requires_grad
    assert untied.model.embed_tokens.weight.requires_grad


@pytest.mark.parametrize("caching", [False, True], ids=["whole", "cached"])
def test_training_on_pairs_teaches_the_order_of_completions_and_trains_the_head(base, caching):
    model = RewardModel(Engine(load_model(base).requires_grad_(True)))
    examples = [make_example([prompt], [[5], [6], [6], [5]]) for prompt in range(10, 18)]
    label_N = torch.tensor([1.0, 0.0] * 4)
    examples = [
        e if label else make_example(e.prompt_ids, [[6], [5], [6], [5]])
        for e, label in zip(examples, label_N.tolist(), strict=True)
    ]
    count, columns = len(examples), 4
    objective = PreferenceObjective(
        examples,
        PreferenceData(
            anchor_NC=torch.full((count, columns), torch.nan),  # nothing may read it
            length_NC=torch.full((count, columns), torch.nan),
            preference_NCC=torch.full((count, columns, columns), 0.5),
            sample_mask_NK=torch.ones(count, 2, dtype=torch.bool),
            label_N=label_N,
            weight_N=torch.ones(count),
        ),
        beta=None,
        options={"loss": "sigmoid", "pool": True, "margin_clip": 10.0, "tau": None},
        control=ControlWeight(0.5),
    )
    trainer = Trainer(
        model.engine,
        learning_rate=1e-2,
        total_steps=20,
        schedule="constant",
        module=model,
        forward=model.scores,
        gradient_caching=caching,
    )
    batch = list(range(count))
    for _ in range(20):
        result = trainer.step(
            examples,
            lambda values, mask, places: objective.loss(values, mask, [batch[p] for p in places]),
            normaliser=objective.weight(batch),
        )
        metrics = objective.after_step(result, batch)
    assert metrics["rewards/accuracies"] == 1.0
    assert metrics["rewards/margins"] > 0.5
    assert not {"logps/chosen", "logps/rejected"} & set(metrics)
    assert model.head.weight.abs().max() > 0
