"""Answers of a judge are kept as they come, and what is kept is not asked again."""

import pytest

from tests.judge_server import chat_model
from vrpo.contract.task import JudgeSource
from vrpo.errors import JudgeUnavailable
from vrpo.evaluate.judges import ChatJudge, Contest
from vrpo.stages.asked import ask


def contests(count):
    return [
        Contest(f"Question {n}", "a long answer", "short", (1,), (2, n), (3, n))
        for n in range(count)
    ]


def judge_at(model):
    source = JudgeSource(name="local", kind="openai", base_url=model.url, model="any")
    return ChatJudge(source, wait=lambda seconds: None)


def answers(model, given, folder, *, rank=0):
    return ask(
        judge_at(model), given, kept=folder, rank=rank,
        progress=lambda done, total: None, raise_if_cancelled=lambda: None,
    )  # fmt: skip


@pytest.fixture
def model():
    with chat_model(lambda first, second: len(first) >= len(second)) as running:
        yield running


def test_all_that_was_kept_is_answered_without_a_question_by_any_worker(model, tmp_path):
    first = answers(model, contests(3), tmp_path)
    asked = len(model.questions)
    again = answers(model, contests(4), tmp_path, rank=1)

    assert first == [1.0] * 3
    assert again == [1.0] * 4
    assert (asked, len(model.questions)) == (6, 8)


def test_a_line_that_a_kill_cut_off_is_asked_again_and_spoils_no_other(model, tmp_path):
    answers(model, contests(3), tmp_path)
    [file] = tmp_path.iterdir()
    text = file.read_text()
    file.write_text(text[: len(text) - 20])

    for _ in range(2):
        assert answers(model, contests(5), tmp_path) == [1.0] * 5
    assert len(model.questions) == 2 * (3 + 1 + 2)


def test_equal_answers_tie_without_a_question(model, tmp_path):
    [same] = answers(model, [Contest("Q", "x", "x", (1,), (2,), (2,))], tmp_path)

    assert same == 0.5
    assert model.questions == []


def test_the_answers_before_a_failure_are_kept(model, tmp_path):
    model.fails_after = 40
    with pytest.raises(JudgeUnavailable, match="'local' does not answer"):
        answers(model, contests(64), tmp_path)
    model.fails_after = None
    kept = next(tmp_path.iterdir()).read_text().count("\n")
    model.questions.clear()
    answers(model, contests(64), tmp_path)

    assert 0 < kept <= 20
    assert len(model.questions) == 2 * (64 - kept)
