"""The judge, against a server on this machine that speaks the protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from saei.errors import TrainingError
from saei.rewards import judge as judge_module
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.base import Attempt
from saei.rewards.judge import Judge
from saei.types import Example


class Server:
    """Answers with what ``replies`` holds for the student's answer; a number is a status code."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Any]] = {}
        self.requests: list[tuple[str, Any, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, self.headers, body))
                answer = body["messages"][1]["content"].split("Student's answer:\n")[1].split("\n\nThe same?")[0]
                queue = outer.replies[answer]
                reply = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(reply if isinstance(reply, int) else 200)
                self.end_headers()
                if not isinstance(reply, int):
                    raw = (
                        reply
                        if isinstance(reply, bytes)
                        else json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                    )
                    self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(judge_module.time, "sleep", lambda seconds: None)
    judge_module._ask.cache_clear()
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def reward(server: Server, **fields: Any) -> AccuracyFormat:
    return AccuracyFormat(AccuracyFormat.Config(judge=Judge(url=server.url, model="m", **fields)))


def attempt(answer: str, gold: str = "a red car", kind: str = "text") -> Attempt:
    return Attempt(Example("x", "What is it?", gold, meta={"answer_type": kind}), f"\\boxed{{{answer}}}")


def test_it_decides_on_free_form_answers_that_rules_call_wrong(server: Server) -> None:
    server.replies = {"a car, red": ["Yes."], "a cat": ["no"], "a bus": ["I cannot say."]}
    attempts = [*map(attempt, ("a red car", "a car, red", "a cat", "a bus", "a cat")), attempt("6", "5", "integer")]
    grades = reward(server).grade_all(attempts)
    assert [grade.correct for grade in grades] == [True, True, False, False, False, False]
    assert [grade.parts["judged"] for grade in grades] == [0, 1, 1, 1, 1, 0]
    assert [grade.reason for grade in grades[1:4]] == [
        "judge m: yes",
        "judge m: no",
        "judge m: neither yes nor no: 'I cannot say.'",
    ]
    assert len(server.requests) == 3  # equal cases once, and none that rules decide
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert "Authorization" not in headers


def test_without_one_nothing_is_marked() -> None:
    assert AccuracyFormat().config.judge is None
    assert "judged" not in AccuracyFormat().grade_all([attempt("a bus")])[0].parts


def test_the_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "not-a-secret")
    server.replies = {"a bus": ["no"]}
    reward(server, key_variable="SOME_KEY").grade_all([attempt("a bus")])
    assert server.requests[0][1]["Authorization"] == "Bearer not-a-secret"


def test_busy_servers_are_asked_again(server: Server) -> None:
    server.replies = {"a bus": [503, 429, b"not json", b'{"choices": []}', "yes"]}
    assert reward(server, retries=4).grade_all([attempt("a bus")])[0].correct
    assert len(server.requests) == 5


@pytest.mark.parametrize(("replies", "tries", "said"), [([503], 3, "status 503"), ([401], 1, "status 401")])
def test_a_judge_that_fails_stops_the_run(server: Server, replies: list[int], tries: int, said: str) -> None:
    server.replies = {"a bus": replies}
    with pytest.raises(TrainingError, match=said) as error:
        reward(server, retries=2).grade_all([attempt("a bus")])
    assert len(server.requests) == tries
    assert "reward.judge" in error.value.remedy


def test_nobody_at_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module.time, "sleep", lambda seconds: None)
    judge = Judge(url="http://127.0.0.1:9", model="m", retries=1)
    with pytest.raises(TrainingError, match="2 tries"):
        AccuracyFormat(AccuracyFormat.Config(judge=judge)).grade_all([attempt("a bus")])


def test_only_web_addresses() -> None:
    with pytest.raises(ValidationError, match="http"):
        Judge(url="file:///etc/passwd", model="m")
