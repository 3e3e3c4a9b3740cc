"""Workers that hold a share of the weights each (FSDP2) do what one worker does that holds all."""

import pytest
import torch
from team_cases import Asked, alone, run_team

from vrpo.contract.run import LoraSpec

pytestmark = pytest.mark.slow

LORA = LoraSpec(r=2, alpha=4)
DROPOUT = LoraSpec(r=2, alpha=4, dropout=0.3)
FLOAT64 = {"dtype": "float64", "n_epochs": 1, "sharded": True}
EQUAL = [
    # prompts of up to 60 tokens do not fit a micro-batch, so the gradient is cached
    Asked(name="tied, cached", model="tied llama", longest_prompt=60, **FLOAT64),
    Asked(name="adapter, cached", adapter=LORA, longest_prompt=60, **FLOAT64),
    Asked(name="float32", sharded=True),
    Asked(name="recomputed", activation_checkpointing=True, **FLOAT64),
    Asked(name="adapter, recomputed", adapter=LORA, activation_checkpointing=True, **FLOAT64),
    Asked(name="padded, and so of uneven passes", model="padded", **FLOAT64),
    Asked(name="fewer prompts than workers", batch_size=1, **FLOAT64),
    Asked(name="dpo", objective="dpo", **FLOAT64),
    Asked(name="supervised", objective="supervised", **FLOAT64),
    Asked(name="reward model", objective="reward", n_epochs=1, sharded=True),
]
COMPILED = Asked(name="compiled", compiled=True, **FLOAT64)
OTHERS = [
    COMPILED,
    Asked(name="poisoned", poisoned=True, sharded=True),
    Asked(name="whole", sharded=True),
    Asked(name="cut", sharded=True, stop_at=7),
    Asked(name="cut", sharded=True),
    Asked(name="whole, dropout", sharded=True, adapter=DROPOUT, longest_prompt=60),
    Asked(name="cut, dropout", sharded=True, adapter=DROPOUT, longest_prompt=60, stop_at=7),
    Asked(name="cut, dropout", sharded=True, adapter=DROPOUT, longest_prompt=60),
    Asked(name="to ddp", dtype="float64", sharded=True, stop_at=7),
    Asked(name="to ddp", dtype="float64"),
    Asked(name="from ddp", dtype="float64", stop_at=7),
    Asked(name="from ddp", dtype="float64", sharded=True),
    Asked(name="measured", measured=True, batch_size=10, sharded=True, n_epochs=1),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Everything in one team, since starting one takes longer than all it does."""
    folder = tmp_path_factory.mktemp("team")
    found = zip(*run_team(folder, [*EQUAL, *OTHERS]), strict=True)
    return {
        (asked.name, asked.sharded, asked.stop_at): pair
        for asked, pair in zip([*EQUAL, *OTHERS], found, strict=True)
    }


@pytest.mark.parametrize("asked", EQUAL, ids=lambda asked: asked.name)
def test_two_workers_are_one(results, tmp_path, asked):
    """Weights to 1e-9 in float64 and 2e-5 in float32; what is written has the same tensors."""
    atol = 1e-9 if asked.dtype == "float64" else 2e-5
    first, second = results[asked.name, True, None]
    one = alone(tmp_path / "alone", asked)
    assert torch.equal(first["weights"], second["weights"])
    assert first["state"] == second["state"]
    assert first["metrics"] == second["metrics"]
    torch.testing.assert_close(first["weights"], one["weights"], rtol=0, atol=atol)
    assert first["saved"].keys() == one["saved"].keys()
    for name, tensor in one["saved"].items():
        torch.testing.assert_close(first["saved"][name], tensor, rtol=0, atol=atol)
    for found, expected in zip(first["metrics"], one["metrics"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert found["loss"] == pytest.approx(expected["loss"], rel=max(1e-6, 5 * atol))
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    if asked.objective == "reward":
        torch.testing.assert_close(first["scores"], one["scores"], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_layers_whose_weights_are_shared_out_are_compiled_too(results, tmp_path):
    one = alone(tmp_path / "alone", COMPILED)
    for found in results["compiled", True, None]:
        assert found["warnings"] == one["warnings"] == []
        torch.testing.assert_close(found["weights"], one["weights"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["", ", dropout"])
def test_two_workers_that_were_interrupted_end_with_the_same_bits(results, name):
    expected, _ = results[f"whole{name}", True, None]
    assert [found["error"] for found in results[f"cut{name}", True, 7]] == ["StageCancelled"] * 2
    for resumed in results[f"cut{name}", True, None]:
        assert torch.equal(resumed["weights"], expected["weights"])
        assert resumed["metrics"] == expected["metrics"][6:]


@pytest.mark.parametrize("name", ["to ddp", "from ddp"])
def test_a_checkpoint_serves_workers_with_and_without_shares(results, tmp_path, name):
    asked = Asked(name="alone", dtype="float64")
    one = alone(tmp_path / "alone", asked)
    resumed, _ = results[name, name == "from ddp", None]
    assert len(resumed["metrics"]) == 6
    torch.testing.assert_close(resumed["weights"], one["weights"], rtol=0, atol=1e-9)


def test_a_loss_that_is_not_finite_on_one_worker_ends_all_of_them(results):
    assert [found["error"] for found in results["poisoned", True, None]] == ["NumericalError"] * 2


def test_each_worker_holds_half_of_the_weights_gradients_and_moments(results, tmp_path):
    """By the bytes of all tensors that live behind a step, beyond those before the model's."""
    asked = Asked(measured=True, batch_size=10, n_epochs=1)
    one = alone(tmp_path / "alone", asked)
    for found in results["measured", True, None]:
        of, held = (sum(numbers) for numbers in zip(*found["held"], strict=True))
        assert held == pytest.approx(of / 2, rel=0.02)
        assert min(one["num_bytes"]) >= 4 * 4 * of
        assert max(found["num_bytes"]) / min(one["num_bytes"]) == pytest.approx(0.5, abs=0.1)
