"""The cache with room gives what the copying one gives, through growth, repeats and selections."""

import torch
from engine_cases import tiny_model
from transformers import DynamicCache

from vrpo.engine.cache import ROOM, restock, roomy_cache


def test_it_holds_what_the_copying_cache_holds():
    config = tiny_model().config
    roomy, copying = roomy_cache(config), DynamicCache(config=config)
    draw = torch.Generator().manual_seed(0)

    def both(rows, tokens):
        states = torch.randn(2, rows, 2, tokens, 8, generator=draw)
        return roomy.update(*states, 0), copying.update(*states, 0)

    def assert_same(pair):
        for mine, other in zip(*pair, strict=True):
            assert torch.equal(mine, other)

    assert_same(both(2, 5))
    for cache in (roomy, copying):
        cache.batch_repeat_interleave(3)
    for _ in range(ROOM + 3):
        assert_same(both(6, 1))
    keep = torch.tensor([0, 3, 4])
    for cache in (roomy, copying):
        cache.batch_select_indices(keep)
    assert_same(both(3, 1))
    assert roomy.get_seq_length() == copying.get_seq_length() == 5 + ROOM + 4


def test_rows_that_stay_and_rows_that_join_end_at_the_same_column():
    config = tiny_model().config
    cache, other = roomy_cache(config), roomy_cache(config)
    old, new = torch.randn(2, 3, 2, 6, 8), torch.randn(2, 2, 2, 4, 8)
    for layer in range(len(cache.layers)):
        cache.update(*old, layer)
        other.update(*new, layer)

    restock(cache, keep=torch.tensor([2, 0]), joined=other, width=5)

    keys = cache.layers[0].keys
    assert keys.shape == (4, 2, 5, 8)
    assert torch.equal(keys[:2], old[0][[2, 0], :, 1:])
    assert torch.equal(keys[2:, :, 1:], new[0])
    assert bool((keys[2:, :, 0] == 0).all())
    step = torch.randn(2, 4, 2, 1, 8)
    keys, values = cache.update(*step, 0)
    assert torch.equal(keys[:, :, 5:], step[0])
    assert torch.equal(values[2:, :, 1:5], new[1])
