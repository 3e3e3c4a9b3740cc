"""p_eta from columns of the file, from policies' implicit rewards, and from an LLM judge."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_embedder, make_tiny_model
from tests.judge_server import chat_model
from vrpo.contract.metrics import metric
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.contract.task import JudgeSource, ModelSource
from vrpo.errors import ContextTooLong, JudgeUnavailable, StageCancelled
from vrpo.stages.score import SCORES

NUMBERS = {"n_epochs": 1, "batch_size": 4, "learning_rate": 3e-3}
REFERENCE = {"samples_per_prompt": 2, "max_new_tokens": 5}
WORDS = ["red", "blue", "a cat", "the sea", "bread", "snow", "an old tree", "music"]
LORA = {"type": "lora", "r": 2, "alpha": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


def pipeline(folder, tiny, *, rows=None, judge=None, adapter=None, other_models=None, **vrpo):
    folder.mkdir(exist_ok=True)
    path = folder / "pairs.jsonl"
    given = rows or [pair(word, number) for number in range(2) for word in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    request = {
        "model": "tiny",
        "training_file": "file-1",
        "method": {"type": "vrpo", "vrpo": {"hyperparameters": NUMBERS, **vrpo}},
        "run": {
            "training": {"max_length": 96, "adapter": adapter},
            "eval": {"holdout_fraction": 0.3, "prompts": 2, "max_new_tokens": 5},
            "checkpoints": {"every_steps": 1},
        },
    }
    return PipelineRun(
        folder / "job",
        request,
        model=tiny,
        files={"training": path},
        judge=judge,
        other_models=other_models,
    )


def pair(word, number, **more):
    rejected = " bad!" if number % 2 else " so bad"
    return {"prompt": f"{word} is {number}", "chosen": " good", "rejected": rejected, **more}


def scores(run):
    return load_file(run.outputs[StageName.SCORE] / SCORES)


def stage(run, name):
    return next(planned for planned in plan(run.spec) if planned.name is name)


def test_the_authors_columns_are_trained_on_by_the_paper_preset(tmp_path, tiny):
    more = {"a_1": " fine", "a_2": " sad", "chosen_preference": 0.9, "a_1_preference": 0.7}
    run = pipeline(
        tmp_path,
        tiny,
        rows=[pair(word, number, **more) for number in range(2) for word in WORDS],
        preset="paper",
        preference={"source": "columns"},
    ).run_all()

    assert StageName.SAMPLE_REFERENCE not in run.outputs
    assert StageName.FIT_PREFERENCE not in run.outputs
    found = scores(run)
    assert bool(found["sample_mask"].all())
    assert found["preference"][:, 0, 1].unique().tolist() == pytest.approx([0.9])
    assert found["preference"][:, 3, 2].unique().tolist() == pytest.approx([0.3])


def test_a_matrix_of_preferences_is_pooled_and_rows_may_differ_in_samples(tmp_path, tiny):
    def matrix(size):
        return [
            [0.5 if j == k else (0.6 if j < k else 0.4) for k in range(size)] for j in range(size)
        ]

    rows = [
        pair(word, number, samples=[" fine", " sad", " x"][: 1 + number],
             preferences=matrix(3 + number))
        for number in range(3) for word in WORDS
    ]  # fmt: skip
    run = pipeline(tmp_path, tiny, rows=rows, preference={"source": "columns"}).run_all()

    found = scores(run)
    assert sorted(found["sample_mask"].sum(dim=1).unique().tolist()) == [1, 2, 3]
    assert found["preference"][0, 0, 1].item() == pytest.approx(0.6)
    metrics = run.metrics[StageName.TRAIN_POLICY][-1][1]
    assert metrics["vrpo/resampled"] != metrics["vrpo/predicted"]


@pytest.mark.parametrize("adapter", [None, LORA], ids=["all weights", "adapter"])
def test_policies_of_other_folds_are_the_preference_model(tmp_path, tiny, adapter):
    run = pipeline(
        tmp_path,
        tiny,
        adapter=adapter,
        reference=REFERENCE,
        preference={"source": "implicit", "cross_fit_folds": 2},
    ).run_all()

    preference = scores(run)["preference"]
    assert torch.equal(preference.diagonal(dim1=1, dim2=2), torch.full(preference.shape[:2], 0.5))
    torch.testing.assert_close(preference + preference.mT, torch.ones_like(preference))
    assert bool((preference[:, 0, 1] != 0.5).all())
    assert run.summaries[StageName.FIT_PREFERENCE]["folds"] == 2
    reported = {name for _, found in run.metrics[StageName.FIT_PREFERENCE] for name in found}
    assert [name for name in reported if metric(name) is None] == []
    assert 0 <= run.summaries[StageName.EVALUATE]["win_rate"] <= 1


def test_a_fold_that_was_trained_before_a_stop_is_not_trained_again(tmp_path, tiny):
    def make(name):
        return pipeline(
            tmp_path / name, tiny, reference=REFERENCE,
            preference={"source": "implicit", "cross_fit_folds": 2},
        )  # fmt: skip

    def reports(run):
        return [next(iter(metrics)) for _, metrics in run.metrics[StageName.FIT_PREFERENCE]]

    def stop_in_the_second_fold():
        if any("fold_1" in name for name in reports(stopped)):
            raise StageCancelled("stop")

    tmp_path.joinpath("whole").mkdir()
    tmp_path.joinpath("stopped").mkdir()
    whole, stopped = make("whole"), make("stopped")
    for run in (whole, stopped):
        run.run(stage(run, StageName.PREPARE_DATA))
    whole.run(stage(whole, StageName.FIT_PREFERENCE))
    with pytest.raises(StageCancelled):
        stopped.run(
            stage(stopped, StageName.FIT_PREFERENCE), raise_if_cancelled=stop_in_the_second_fold
        )
    stopped.run(stage(stopped, StageName.FIT_PREFERENCE))

    trained = [name for name in reports(stopped) if "fold_0" in name]
    assert len(trained) == len([name for name in reports(whole) if "fold_0" in name])
    for fold in range(2):
        weights = [
            load_file(run.outputs[StageName.FIT_PREFERENCE] / f"fold-{fold}" / "model.safetensors")
            for run in (whole, stopped)
        ]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_heads_may_read_a_sentence_embedder(tmp_path, tiny):
    make_tiny_embedder(tmp_path / "embedder")
    run = pipeline(
        tmp_path,
        tiny,
        other_models={"backbone": ModelSource(path=str(tmp_path / "embedder"), kind="embedder")},
        reference=REFERENCE,
        preference={"backbone": "minilm", "cross_fit_folds": 2, "n_epochs": 2},
    ).run_all()

    preference = scores(run)["preference"]
    torch.testing.assert_close(preference + preference.mT, torch.ones_like(preference))
    assert 0 <= run.summaries[StageName.EVALUATE]["win_rate"] <= 1


def test_samples_that_do_not_fit_the_model_are_an_error_of_the_user(tmp_path, tiny):
    small = tmp_path / "small"
    shutil.copytree(tiny, small)
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 24}))
    run = pipeline(
        tmp_path,
        small,
        other_models={"reference": tiny},
        reference={"source": "large", "samples_per_prompt": 2, "max_new_tokens": 40},
    )
    for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.FIT_PREFERENCE):
        run.run(stage(run, name))

    with pytest.raises(ContextTooLong, match="the model's context is 24; lower method"):
        run.run(stage(run, StageName.SCORE))


def chat_judge(model):
    return JudgeSource(name="local", kind="openai", base_url=model.url, model="any")


JUDGED = {"source": "judge", "judge": "local", "cross_fit_folds": 2}


def test_a_judge_that_knows_the_labels_is_right_and_is_asked_of_every_pair_once(tmp_path, tiny):
    with chat_model(lambda first, second: "good" in first) as model:
        run = pipeline(
            tmp_path, tiny, judge=chat_judge(model), reference=REFERENCE, preference=JUDGED
        ).run_all()

    summary = run.summaries[StageName.SCORE]
    assert summary["accuracy"] == 1
    assert summary["temperature"] < 1  # surer than its word
    preference = scores(run)["preference"]
    assert bool((preference[:, 0, 1] > 0.75).all())
    torch.testing.assert_close(preference + preference.mT, torch.ones_like(preference))
    asked_in_training = model.questions[: 2 * 6 * len(preference)]
    assert len(set(asked_in_training)) == len(asked_in_training)


def test_a_judge_of_position_alone_is_a_coin(tmp_path, tiny):
    with chat_model(lambda first, second: True) as model:
        run = pipeline(
            tmp_path, tiny, judge=chat_judge(model), reference=REFERENCE, preference=JUDGED
        )
        for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.SCORE):
            run.run(stage(run, name))

    assert scores(run)["preference"].unique().tolist() == [0.5]


def test_what_a_judge_has_answered_is_not_asked_again_after_it_fell_silent(
    tmp_path, tiny, monkeypatch
):
    monkeypatch.setattr("vrpo.evaluate.judges.TRIES", 1)
    with chat_model(lambda first, second: "good" in first) as model:
        run = pipeline(
            tmp_path, tiny, judge=chat_judge(model), reference=REFERENCE, preference=JUDGED
        )
        for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE):
            run.run(stage(run, name))
        model.fails_after = 20
        with pytest.raises(JudgeUnavailable, match="'local' does not answer"):
            run.run(stage(run, StageName.SCORE))
        kept = (tmp_path / "job/scratch/score/answers/0-0.jsonl").read_text().count("\n")
        model.fails_after = None
        model.questions.clear()
        run.run(stage(run, StageName.SCORE))

    rows = len(scores(run)["preference"])
    assert 0 < kept <= 10
    assert len(model.questions) <= 2 * (6 * rows - kept)
