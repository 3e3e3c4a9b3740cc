"""Two processes share a policy optimisation: answers, scores, gradients, and perhaps weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.in_process import PipelineRun
from tests.integration.in_team import run_by_two
from tests.integration.service import make_tiny_model
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.engine.sharding import ShardedTeam
from vrpo.engine.team import Team

pytestmark = pytest.mark.slow


def check_reward_model(pipeline, stage, folder):
    """Two workers with shares of the weights make the reward model that one makes."""
    found = run_by_two(pipeline, stage, folder, ShardedTeam) / "output-0"
    expected = pipeline.outputs[stage.name]
    for path in expected.rglob("*.safetensors"):
        tensors = load_file(found / path.relative_to(expected))
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "kinds"),
    [(None, (Team, ShardedTeam)), ({"type": "lora", "r": 2}, (ShardedTeam,))],
    ids=["all weights", "adapter"],
)
def test_two_workers_draw_and_learn_what_one_does(tmp_path, adapter, kinds):
    make_tiny_model(tmp_path / "tiny")
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad!"} for n in range(10)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vrpo = {
        "scheme": "two_stage",
        "hyperparameters": {"n_epochs": 2, "batch_size": 3, "learning_rate": 3e-3},
        "reference": {"samples_per_prompt": 2, "max_new_tokens": 4},
        "preference": {"cross_fit_folds": 2, "n_epochs": 2},
        "reward": {"batch_size": 4, "learning_rate": 3e-3},
        "rl": {"samples_per_prompt": 3, "max_new_tokens": 4, "updates_per_batch": 2},
    }
    request = {
        "model": "tiny",
        "training_file": "file-1",
        "method": {"type": "vrpo", "vrpo": vrpo},
        "run": {
            "training": {"max_length": 64, "adapter": adapter},
            "checkpoints": {"every_steps": 2},
        },
    }
    pipeline = PipelineRun(
        tmp_path / "job", request, model=tmp_path / "tiny", files={"training": pairs}
    )
    stages = {stage.name: stage for stage in plan(pipeline.spec)}
    for name, stage in stages.items():
        if name is StageName.TRAIN_POLICY:
            break
        pipeline.run(stage)
    if adapter is None:
        check_reward_model(pipeline, stages[StageName.TRAIN_REWARD], tmp_path / "reward")
    stage = stages[StageName.TRAIN_POLICY]
    pipeline.run(stage)
    alone = [values for _, values in pipeline.metrics[StageName.TRAIN_POLICY]]
    for kind in kinds:
        folder = run_by_two(pipeline, stage, tmp_path / kind.__name__, kind)
        [saved] = (folder / "output-0" / "model").glob("*.safetensors")
        assert saved.name == ("adapter_model.safetensors" if adapter else "model.safetensors")
        metrics = [json.loads((folder / f"metrics-{rank}.json").read_text()) for rank in range(2)]
        assert metrics[0] == metrics[1]
        assert len(alone) == len(metrics[0])
        for found, expected in zip(metrics[0][:4], alone[:4], strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
