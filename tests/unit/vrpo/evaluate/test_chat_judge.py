"""The chat judge against a local HTTP server: both orders, and every way not to answer."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.unit.vrpo.evaluate import evidence_cases as cases
from vrpo.contract.task import JudgeSource
from vrpo.errors import JudgeUnavailable
from vrpo.evaluate.checks import all_checks
from vrpo.evaluate.contest import contest_figures
from vrpo.evaluate.judges import TRIES, ChatJudge, Contest, RewardJudge


def contest(policy, reference, prompt="Say something"):
    return Contest(prompt, policy, reference, (1,), (2,), (3,))


def answers_of(question):
    """Return the two answers of a question, as the server reads them."""
    first = question.split("<answer_a>\n")[1].split("\n</answer_a>")[0]
    second = question.split("<answer_b>\n")[1].split("\n</answer_b>")[0]
    return first, second


def longer(question):
    first, second = answers_of(question)
    return "A" if len(first) >= len(second) else "B"


def completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Endpoint:
    """What the server saw, and a judge that asks it."""

    def __init__(self, port):
        self.requests = []
        self.waits = []
        source = JudgeSource(
            name="local",
            kind="openai",
            base_url=f"http://127.0.0.1:{port}/v1/",
            model="judge-model",
            api_key_env="JUDGE_KEY_OF_THE_TEST",
        )
        self.judge = ChatJudge(source, wait=self.waits.append)


@contextmanager
def served(respond):
    """Serve ``respond(question) -> bytes | None``; None closes the connection without a word."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.requests.append((self.path, dict(self.headers), body))
            content = respond(body["messages"][0]["content"])
            if content is None:
                self.close_connection = True
            elif isinstance(content, int):
                self.send_error(content)
            elif isinstance(content, dict):
                self.send_response(429)
                for name, value in content.items():
                    self.send_header(name, value)
                self.end_headers()
            elif content.startswith(b"raw:"):
                self.wfile.write(content[4:])
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_contest_is_asked_in_both_orders_and_the_judge_is_antisymmetric(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY_OF_THE_TEST", "secret")
    with served(lambda question: completion(longer(question))) as endpoint:
        pairs = [("a long answer", "short"), ("no", "rather yes")]
        verdicts = endpoint.judge.verdicts([contest(*pair) for pair in pairs])
        swapped = endpoint.judge.verdicts([contest(*reversed(pair)) for pair in pairs])
    assert [verdict.preference for verdict in verdicts] == [1.0, 0.0]
    assert [verdict.win for verdict in swapped] == [0.0, 1.0]
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("judge-model", 0)
    orders = [answers_of(sent["messages"][0]["content"]) for _, _, sent in endpoint.requests[:2]]
    assert orders == [("a long answer", "short"), ("short", "a long answer")]
    assert endpoint.waits == []


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_judge_that_always_names_one_place_says_tie(letter):
    with served(lambda question: completion(letter)) as endpoint:
        [verdict] = endpoint.judge.verdicts([contest("x", "y")])
    assert (verdict.preference, verdict.win) == (0.5, 0.5)


def test_a_judge_that_likes_the_first_place_is_found_out():
    # it goes by the length only where the lengths are far apart
    def respond(question):
        first, second = answers_of(question)
        return completion("B" if len(second) > len(first) + 3 else "A")

    # 12 contests are decided by the place, 4 by the length
    contests = [contest("abc", "xyz")] * 12 + [contest("a longer one", "xyz")] * 4
    with served(respond) as endpoint:
        verdicts = endpoint.judge.verdicts(contests)
    figures = contest_figures(contests, verdicts, range(len(contests)))
    assert figures["judge_order_error"] == 12 / 16
    assert figures["judge_position_bias"] == 12 / 16 / 2
    assert figures["judge_position_p"] < 0.01
    assert figures["tie_share"] == 12 / 16
    evidence = cases.dpo(evaluation=cases.EVALUATION | figures)
    checks = {check.name: check for check in all_checks(evidence)}
    assert checks["judge_position_bias"].alarm
    assert "likes what is shown first" in checks["judge_position_bias"].says


@pytest.mark.parametrize(
    "form", ["{}", " {}.", "**{}**", "({})", "Answer: {}", "answer {}", "{}\n"]
)
def test_the_letter_is_read_in_the_forms_that_models_write_it(form):
    def respond(question):
        return completion(form.format(longer(question)))

    with served(respond) as endpoint:
        verdicts = endpoint.judge.verdicts([contest("longer", "x"), contest("x", "longer")])
    assert [verdict.preference for verdict in verdicts] == [1.0, 0.0]


NONSENSE = {
    "neither letter": completion("Neither"),
    "a word that begins with A": completion("Apples"),
    "both letters": completion("A or B"),
    "empty": completion(""),
    "no text": completion(None),
    "no choices": b'{"choices": []}',
    "a list": b"[]",
    "null": b"null",
    "not JSON": b"<html>",
    "not UTF-8": b"\xff\xfe\xff",
    "an error": 500,
    "closed": None,
    "not HTTP": b"raw:hello\r\n\r\n",
    "cut short": b'raw:HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{"choi',
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_judge_that_answers_nonsense_is_unavailable_by_name(kind, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY_OF_THE_TEST", "secret")
    with (
        served(lambda question: NONSENSE[kind]) as endpoint,
        pytest.raises(JudgeUnavailable, match="'local'") as caught,
    ):
        endpoint.judge.verdicts([contest("x", "y")])
    assert len(endpoint.requests) == TRIES
    assert "secret" not in str(caught.value)
    assert len(endpoint.waits) == TRIES - 1
    assert endpoint.waits == sorted(endpoint.waits)


@pytest.mark.parametrize("code", [400, 401, 404])
def test_a_question_that_is_refused_is_not_asked_again(code, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY_OF_THE_TEST", "secret")
    with (
        served(lambda question: code) as endpoint,
        pytest.raises(JudgeUnavailable, match=f"'local' does not answer.*{code}") as caught,
    ):
        endpoint.judge.verdicts([contest("x", "y")])
    assert len(endpoint.requests) == 1
    assert "secret" not in str(caught.value)


def test_a_judge_that_is_not_there_is_unavailable():
    with served(lambda question: None) as endpoint:
        pass
    with pytest.raises(JudgeUnavailable, match="does not answer"):
        endpoint.judge.verdicts([contest("x", "y")])


def test_a_judge_that_answers_at_last_is_heard():
    left = [503, None]

    def respond(question):
        return left.pop() if left else completion(longer(question))

    with served(respond) as endpoint:
        [verdict] = endpoint.judge.verdicts([contest("longer", "x")])
    assert verdict.preference == 1.0
    assert len(endpoint.waits) == 2


@pytest.mark.parametrize(("said", "waited"), [("7", 7), ("86400", 60), ("a while", 0.5)])
def test_a_judge_that_is_asked_too_often_is_given_the_time_that_it_says(said, waited):
    left = [{"Retry-After": said}]

    def respond(question):
        return left.pop() if left else completion(longer(question))

    with served(respond) as endpoint:
        endpoint.judge.verdicts([contest("longer", "x")])
    assert endpoint.waits == [waited]


def test_the_higher_reward_wins_and_equal_rewards_tie():
    judge = RewardJudge(lambda texts: [float(len(text)) for text in texts])
    verdicts = judge.verdicts([contest("aa", "b"), contest("a", "bb"), contest("a", "b")])
    assert [(v.win, v.policy_reward, v.reference_reward) for v in verdicts] == [
        (1.0, 2.0, 1.0),
        (0.0, 1.0, 2.0),
        (0.5, 1.0, 1.0),
    ]
