"""A step may be saved again: at every moment a whole checkpoint of it is there."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vrpo.engine import Engine, Trainer, find_latest, load_checkpoint, save_checkpoint


@pytest.fixture
def trainer():
    config = LlamaConfig(
        vocab_size=7,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    engine = Engine(AutoModelForCausalLM.from_config(config).eval())
    return Trainer(engine, learning_rate=1e-3, total_steps=4)


def weight(of):
    return next(of.module.parameters())


def test_the_step_that_is_saved_again_is_the_one_that_is_found(tmp_path, trainer):
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            weight(trainer).fill_(value)
        save_checkpoint(tmp_path, trainer, step=5, extra={"value": value}, keep_last=1)
    with torch.no_grad():
        weight(trainer).zero_()
    assert load_checkpoint(find_latest(tmp_path), trainer) == (5, {"value": 3.0})
    assert bool((weight(trainer) == 3).all())
    assert len(list(tmp_path.iterdir())) == 1
    save_checkpoint(tmp_path, trainer, step=6, extra={}, keep_last=1)
    assert load_checkpoint(find_latest(tmp_path), trainer) == (6, {})


def test_dying_while_a_step_is_saved_again_leaves_what_was_there(tmp_path, trainer, monkeypatch):
    saved = save_checkpoint(tmp_path, trainer, step=5, extra={}, keep_last=1)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, trainer, step=5, extra={}, keep_last=1)
    assert find_latest(tmp_path) == saved
    assert load_checkpoint(saved, trainer) == (5, {})
