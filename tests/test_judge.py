"""The judge, against a server on this machine that speaks the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from saei.errors import ConfigError, TrainingError
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
    monkeypatch.setattr(judge_module, "BACKOFF_S", 0.0)
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
def test_a_judge_that_does_not_answer_leaves_a_marked_wrong_answer(
    server: Server, replies: list[int], tries: int, said: str
) -> None:
    server.replies = {"a bus": replies, "a car, red": ["yes"]}
    grades = reward(server, retries=2).grade_all([attempt("a bus"), attempt("a car, red"), attempt("a red car")])
    assert len(server.requests) == tries + 1
    assert [grade.correct for grade in grades] == [False, True, True]
    assert grades[0].reason == f"judge m unavailable: {said}"
    assert [grade.parts["judge_unavailable"] for grade in grades] == [1, 0, 0]
    assert [grade.parts["judged"] for grade in grades] == [0, 1, 0]


def test_what_failed_is_asked_again_next_time_and_what_was_said_is_not(server: Server) -> None:
    server.replies = {"a bus": [503, "no"], "a cat": ["no"]}
    one = reward(server, retries=0)
    first, second = (one.grade_all([attempt("a bus"), attempt("a cat")]) for _ in range(2))
    assert [grade.parts["judge_unavailable"] for grade in (*first, *second)] == [1, 0, 0, 0]
    assert len(server.requests) == 3


def test_too_many_failures_in_a_row_stop_the_run_over_all_batches(server: Server) -> None:
    server.replies = {"a bus": [503], "a cat": [503], "a dog": ["no"], "a cow": [503], "a hen": [503]}
    one = reward(server, retries=0, parallel=1, max_failures=2)
    one.grade_all([attempt("a bus"), attempt("a cat"), attempt("a dog"), attempt("a cow")])  # the dog starts anew
    one.grade_all([attempt("a hen")])
    with pytest.raises(TrainingError, match=r"3 answers in a row.*status 503") as error:
        one.grade_all([attempt("a bus"), attempt("a cat")])
    assert len(server.requests) == 6  # and the cat is not asked about any more
    assert "reward.judge" in error.value.remedy


def test_a_silent_judge_is_not_waited_for_by_every_answer(server: Server) -> None:
    server.replies = {f"a bus {n}": [503] for n in range(200)}
    with pytest.raises(TrainingError):
        reward(server, retries=1, max_failures=4, parallel=2).grade_all([attempt(f"a bus {n}") for n in range(200)])
    assert len(server.requests) <= 2 * (5 + 2)


# --- broken servers --------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def said(content: bytes) -> bytes:
    """Return a whole reply with this body."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content


def drips(start: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(200):
            time.sleep(0.05)
            connection.sendall(piece)

    return serve


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends(raw: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(raw)


BROKEN: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "no JSON": (sends(said(b"<html>busy</html>")), "no JSON"),
    "empty body": (sends(said(b"")), "no JSON"),
    "not UTF-8": (sends(said(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}')), "no JSON in UTF-8"),
    "nested": (sends(said(b"[" * 200_000)), "nested too deeply"),
    "long number": (sends(said(b"9" * 10_000)), "no JSON"),
    "no object": (sends(said(b"[1, 2]")), "without choices"),
    "a number": (sends(said(b"7")), "without choices"),
    "null": (sends(said(b"null")), "without choices"),
    "an error": (sends(said(b'{"error": {"message": "no such model"}}')), "without choices"),
    "empty choices": (sends(said(b'{"choices": []}')), "without choices"),
    "choices null": (sends(said(b'{"choices": null}')), "without choices"),
    "choices a text": (sends(said(b'{"choices": "yes"}')), "without choices"),
    "message null": (sends(said(b'{"choices": [{"message": null}]}')), "without choices"),
    "content null": (sends(said(b'{"choices": [{"message": {"content": null}}]}')), "content is NoneType"),
    "content a list": (sends(said(b'{"choices": [{"message": {"content": ["yes"]}}]}')), "content is list"),
    "cut off": (sends(HEAD + b"Content-Length: 500\r\n\r\n{"), "RemoteProtocolError"),
    "no HTTP": (sends(b"yes\r\n\r\n"), "RemoteProtocolError"),
    "closed": (lambda connection: None, "Error"),
    "reset": (reset, "Error"),
    "broken chunks": (sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "RemoteProtocolError"),
    "compressed": (sends(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"), "compressed"),
    "endless": (sends(HEAD + b"\r\n" + b" " * (3 << 20)), "over 1 MiB"),
    "dripping headers": (drips(b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"), "no whole reply within 0.5 s"),
    "dripping body": (drips(HEAD + b"\r\n", b" "), "no whole reply within 0.5 s"),
    "silent": (lambda connection: time.sleep(1.5), "no whole reply within 0.5 s|ReadTimeout"),
    "redirect": (
        sends(b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"),
        "redirects are not followed",
    ),
    "no content": (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), "status 204"),
    "server error": (sends(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), "status 500"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_kind_of_broken_server_leaves_a_marked_wrong_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "not-a-secret")
    serve, why = BROKEN[name]
    listener = socket.create_server(("127.0.0.1", 0))
    received: list[bytes] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            while b"The same?" not in b"".join(received[-2:]):
                received.append(connection.recv(1 << 16))
            with contextlib.suppress(OSError):  # the client may have hung up
                serve(connection)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    judge = Judge(
        url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1",
        model="m",
        retries=0,
        timeout=0.5,
        key_variable="SOME_KEY",
    )
    grade = AccuracyFormat(AccuracyFormat.Config(judge=judge)).grade_all([attempt("a bus")])[0]
    listener.close()
    assert b"not-a-secret" in b"".join(received)
    assert (grade.correct, grade.parts["judge_unavailable"]) == (False, 1.0)
    assert any(part in grade.reason for part in why.split("|")), grade.reason
    assert grade.reason.startswith("judge m unavailable: ")
    assert grade.reason.isprintable()
    assert len(grade.reason) < 200
    assert "not-a-secret" not in grade.reason


def test_nobody_at_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "BACKOFF_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    judge = Judge(url=f"http://127.0.0.1:{port}", model="m", retries=1, max_failures=0)
    with pytest.raises(TrainingError, match=r"1 answers in a row.*2 tries.*ConnectError"):
        AccuracyFormat(AccuracyFormat.Config(judge=judge)).grade_all([attempt("a bus")])


def test_the_key_goes_to_no_other_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is an answer like any other that is no opinion: what is behind it gets nothing."""
    monkeypatch.setenv("SOME_KEY", "not-a-secret")
    other = socket.create_server(("127.0.0.1", 0))
    other.settimeout(0.3)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            port = other.getsockname()[1]
            connection.sendall(b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % port)

    threading.Thread(target=answer, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    judge = Judge(url=url, model="m", key_variable="SOME_KEY", retries=3)
    grade = AccuracyFormat(AccuracyFormat.Config(judge=judge)).grade_all([attempt("a bus")])[0]
    assert "status 302" in grade.reason
    with pytest.raises(TimeoutError):
        other.accept()
    other.close()
    listener.close()


def test_the_key_is_in_no_text(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "not-a-secret")
    server.replies = {"a bus": ["You sent not-a-secret."], "a cat": [503]}
    one = reward(server, key_variable="SOME_KEY", max_failures=1, retries=0, parallel=1)
    grades = one.grade_all([attempt("a bus"), attempt("a cat")])
    assert grades[0].reason == "judge m: neither yes nor no: 'You sent [key].'"
    texts = [repr(one), repr(vars(one)), repr(vars(one._judge)), repr(one.config), one.config.model_dump_json()]
    with pytest.raises(TrainingError) as error:
        one.grade_all([attempt("a cat")])
    for text in (*texts, str(error.value), *(grade.reason for grade in grades)):
        assert "not-a-secret" not in text


@pytest.mark.parametrize("key", [None, "", " ", "not a secret", "not-a\nsecret", "not-a-sécret"])
def test_a_key_that_no_header_may_hold_is_an_error_without_it(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if key is None:
        monkeypatch.delenv("SOME_KEY", raising=False)
    else:
        monkeypatch.setenv("SOME_KEY", key)
    config = AccuracyFormat.Config(judge=Judge(url="http://127.0.0.1:9", model="m", key_variable="SOME_KEY"))
    with pytest.raises(ConfigError, match="SOME_KEY") as error:
        AccuracyFormat(config)
    assert "secret" not in str(error.value)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "file:///etc/passwd"},
        {"url": "http://"},
        {"url": "http://user:not-a-secret@host/v1"},
        {"url": "http://host/v1?key=not-a-secret"},
        {"url": "http://host/v1#not-a-secret"},
        {"key_variable": "sk-not-a-secret"},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"retries": 1000},
    ],
)
def test_what_a_judge_cannot_be_is_refused_and_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        Judge(**{"url": "http://host", "model": "m", **fields})
    assert "not-a-secret" not in str(error.value)


def test_a_gold_answer_that_cannot_be_read_is_not_judged(server: Server) -> None:
    grade = reward(server).grade_all([attempt("a bus", kind="no such type")])[0]
    assert (grade.correct, grade.parts["judged"], server.requests) == (False, 0, [])


def test_a_judge_can_be_asked_where_an_event_loop_runs(server: Server) -> None:
    server.replies = {"a bus": ["yes"]}

    async def inside() -> bool:
        return reward(server).grade_all([attempt("a bus")])[0].correct

    assert asyncio.run(inside())
