"""The report's page: readable without a network, whatever the data says."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.unit.vrpo.evaluate import evidence_cases as cases
from vrpo.evaluate.page import render_html
from vrpo.evaluate.report import MOST_STEPS, build_report

HOSTILE = "<script>alert('&')</script>"
VOID = {"meta", "br"}
LOADING = {"script", "link", "iframe", "img", "object", "embed", "base", "video", "audio", "use"}


class Page(HTMLParser):
    """Collects tags and text, and looks whether every tag is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def evidence_of(method):
    return {
        "vrpo": cases.good_vrpo,
        "dpo": cases.dpo,
        "supervised": lambda: cases.supervised(2.5, 3.0),
    }[method]()


def report_of(evidence):
    samples = [{"prompt": "p", "policy": "ours", "opponent": "theirs", "preference": 0.7}]
    report = build_report(evidence, summaries={"evaluate": evidence.evaluation}, samples=samples)
    return json.loads(json.dumps(report, allow_nan=False))


@pytest.mark.parametrize("method", ["vrpo", "dpo", "supervised"])
def test_the_page_of_every_method_is_well_formed_and_loads_nothing(method):
    html = render_html(report_of(evidence_of(method)))
    page = Page(html)
    assert page.open == []
    assert not LOADING & set(page.tags)
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action")]
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not re.search(r"url\(|@import|https?:|//[a-z]", html)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_verdict_stands_before_every_table():
    report = report_of(cases.good_vrpo())
    page = Page(render_html(report))
    text = "".join(page.text)
    assert report["verdict"] == " ".join(report["sentences"])
    first, *others = report["sentences"]
    for sentences in (first, " ".join(others)):
        assert text.index(sentences) < text.index("What it says")
    assert page.tags.index("p") < page.tags.index("svg") < page.tags.index("table")


def test_every_diagnostic_stands_with_its_meaning_and_its_threshold():
    report = report_of(cases.good_vrpo())
    text = " ".join("".join(Page(render_html(report)).text).split())
    for check in report["checks"]:
        assert check["title"] in text
        assert check["meaning"] in text
        assert not check["alarm_when"] or f"alarm: {check['alarm_when']}" in text


def test_what_alarms_is_listed_with_what_to_do():
    evidence = cases.with_wrong_reference(cases.good_vrpo())
    report = report_of(evidence)
    assert set(report["alarms"]) >= {"balance_p", "balance_length_z"}
    text = "".join(Page(render_html(report)).text)
    assert "What alarms" in text
    assert "fit the reference policy on both responses" in text


def test_the_plots_are_there_and_have_names():
    evidence = cases.good_vrpo()
    rounds = [
        {"temperature": t, "win_rate": 0.6, "win_rate_low": 0.5, "win_rate_high": 0.7}
        for t in (1.0, 0.0)
    ]
    report = report_of(evidence) | {"evaluation": cases.EVALUATION | {"temperatures": rounds}}
    page = Page(render_html(report))
    text = "".join(page.text)
    for title in ("Loss", "Reward margin", "Control weight lambda", "Reliability of p_eta"):
        assert title in text
    assert "win rate at temperature 0: 0.6" in text
    pictures = page.tags.count("svg")
    named = [a for a in page.attributes if a[0] == "svg" and a[1] == "aria-label"]
    # shares, each temperature, variance ratios, reliability, and the three curves
    assert pictures == len(named) == 7
    for axis in ("step", "reward margin", "lambda, ± 2 standard errors", "observed share"):
        assert axis in text


@pytest.mark.parametrize("method", ["vrpo", "dpo", "supervised"])
def test_a_screen_reader_finds_its_way(method):
    page = Page(render_html(report_of(evidence_of(method))))
    assert page.tags.count("h1") == page.tags.count("main") == 1
    headings = [tag for tag in page.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}
    columns = [a for a in page.attributes if a[:2] == ("th", "scope")]
    assert len(columns) == page.tags.count("th") > 0
    assert ("html", "lang", "en") in page.attributes
    # the tone is a word as well as a colour
    assert {"Good.", "Mixed.", "Warning."} & set(page.text)


def test_what_is_not_finite_is_said_and_never_drawn():
    evidence = cases.with_runaway_margins(cases.good_vrpo())
    rewards = evidence.probe.rewards_PC.clone()
    rewards[0, 0] = float("nan")
    broken = replace(evidence, probe=replace(evidence.probe, rewards_PC=rewards))
    page = Page(render_html(report_of(broken)))
    text = "".join(page.text)
    assert "not finite" in text
    drawn = " ".join(str(value) for _, name, value in page.attributes if name != "aria-label")
    for word in ("nan", "inf"):
        assert not re.search(rf"\b{word}\b", drawn)
        assert not re.search(rf"\b{word}\b", text, re.IGNORECASE)


def test_long_curves_are_shortened_to_their_means():
    evidence = cases.good_vrpo()
    points = [(step, {"loss": float(step % 2)}) for step in range(1, 10 * MOST_STEPS + 1)]
    evidence.series["train_policy"][:] = points
    (curve,) = report_of(evidence)["curves"]
    line = curve["lines"]["loss"]
    assert len(line) == MOST_STEPS
    assert line[-1] == [10 * MOST_STEPS, 0.5]


def test_whatever_comes_from_the_data_is_escaped():
    report = report_of(cases.good_vrpo())
    report |= {"model": HOSTILE, "verdict": HOSTILE, "tone": HOSTILE}
    report["evaluation"] |= {HOSTILE: 1.0, "judge": HOSTILE, "opponent": HOSTILE}
    report["checks"][0] |= {
        "title": HOSTILE,
        "says": HOSTILE,
        "meaning": HOSTILE,
        "unit": HOSTILE,
        "alarm_when": HOSTILE,
        "state": HOSTILE,
        "value": HOSTILE,
    }
    report["curves"][0]["lines"] = {HOSTILE: [[1, 2.0], [2, 3.0]]}
    report["curves"][0]["stage"] = HOSTILE
    report["samples"] = [{"prompt": HOSTILE, "policy": HOSTILE, "opponent": HOSTILE}]
    report["options"] = {HOSTILE: HOSTILE}
    report["sentences"] = [HOSTILE, HOSTILE]
    page = Page(render_html(report))
    assert "script" not in page.tags
    assert page.open == []
    assert "".join(page.text).count(HOSTILE) >= 14


def test_a_report_is_the_same_bytes_when_it_is_made_again():
    first, second = (render_html(report_of(cases.good_vrpo())) for _ in range(2))
    assert first == second
