"""Reward against KL of several jobs: what is drawn, and what cannot be compared."""

import json

import pytest

from vrpo.cli.frontier import (
    FrontierJob,
    common_figure,
    differences,
    frontier_html,
    frontier_json,
    frontier_svg,
)

HOSTILE = "<script>alert(1)</script>"


def job(beta, kl, rate, *, method="vrpo", **more):
    evaluation = {"judge": "gold", "opponent": "reference", "prompts": 50}
    for name, value in (("kl", kl), ("win_rate", rate)):
        evaluation |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    return FrontierJob(f"ftjob-{beta}", "succeeded", method, beta, evaluation | more)


def with_limits(name, value):
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}


QUEUED = FrontierJob("ftjob-later", "queued", "vrpo", 1.0, {})


def test_the_reward_is_drawn_where_all_jobs_have_it_and_else_the_win_rate():
    plain, rewarded = job(0.1, 2.0, 0.6), job(0.3, 1.0, 0.55, **with_limits("policy_reward", 1.0))
    assert common_figure([plain, rewarded, QUEUED]) == "win_rate"
    assert common_figure([rewarded, QUEUED]) == "policy_reward"
    assert common_figure([QUEUED]) is None


def test_jobs_under_other_judges_or_prompts_are_said_to_differ():
    jobs = [job(0.1, 2.0, 0.6), job(0.3, 1.0, 0.5, judge="other", prompts=9), QUEUED]
    assert differences(jobs) == {"judge": ["gold", "other"], "prompts": ["50", "9"]}
    assert differences(jobs[:1]) == {}


def test_the_json_has_every_figure_with_its_limits():
    value = frontier_json([job(0.1, 2.0, 0.6), QUEUED], figure="win_rate", sweep="s")
    first, second = json.loads(json.dumps(value))["jobs"]
    assert first["figures"]["kl"] == {"low": 1.9, "value": 2.0, "high": 2.1}
    assert (second["status"], second["figures"]) == ("queued", {})


def test_the_page_joins_the_points_of_a_method_and_loads_nothing():
    jobs = [job(b, 1 / b, 0.5 + b, method=m) for b in (0.1, 0.2) for m in ("dpo", "vrpo")]
    html = frontier_html(frontier_json(jobs, figure="win_rate", sweep="s"), title=HOSTILE)
    assert html.count("<polyline") == 2
    assert html.count("<circle") == 4
    assert "dpo 0.1" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize("jobs", [[QUEUED], []])
def test_without_a_finished_job_there_is_a_table_and_no_plot(jobs):
    value = frontier_json(jobs, figure=None, sweep="s")
    assert "<table>" in frontier_html(value, title="s")
    assert frontier_svg(value) == ""


def test_the_picture_is_a_file_of_its_own():
    from xml.etree import ElementTree

    value = frontier_json([job(0.1, 2.0, 0.6)], figure="win_rate", sweep=None)
    root = ElementTree.fromstring(frontier_svg(value))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
