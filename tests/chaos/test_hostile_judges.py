"""Judges that answer with garbage: an answer without an opinion is marked, and nothing takes longer than its limit."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from cases import LONGEST_S, SEED, Tried, acting, readable, size
from damage import damaged
from hostile import CONTAINERS, NUMBERS, TEXTS

from saei.errors import TrainingError
from saei.rewards.accuracy_format import AccuracyFormat
from saei.rewards.base import Attempt
from saei.rewards.judge import Judge
from saei.types import Example

LIMIT_S = 0.4
KEY = "not-a-secret"
STATUS = (
    b"200 OK",
    b"200 OK",
    b"200 OK",
    b"100 Continue",
    b"204 No",
    b"206 Part",
    b"301 Go",
    b"307 Go",
    b"401 No",
    b"429 Busy",
    b"500 Oh",
    b"999 Oh",
    b"-1 x",
    b"0",
    b"abc",
)
HEADERS = (
    b"Content-Type: application/json", b"Content-Type: \xff", b"Content-Length: -1", b"Content-Length: 5", b"Content-Length: 99999999999999999999", b"Content-Length: x",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Content-Encoding: gzip", b"Content-Encoding: br", b"Location: http://127.0.0.1:1/", b"Location: \x00", b"Connection: close",
    b"Connection: upgrade", b"Set-Cookie: " + b"x" * 5000, b": x", b"x", b"X: " + b"y" * 200_000, b"Retry-After: 99999999", b"X\x00: y", b" X: y",
)  # fmt: skip


def body(chance: random.Random) -> bytes:
    """Return a reply's body: what was asked for, something like it, or something else."""
    said = chance.choice(("yes", "no", "Yes.", f"no: {KEY}", chance.choice((*TEXTS, *NUMBERS, None, *CONTAINERS))))
    odd = chance.randrange(8)  # which part is odd, if any
    message = chance.choice((said, {"role": said}, [said])) if odd == 0 else {"content": said}
    choices = chance.choice(([message], message, {"0": message}, [])) if odd == 1 else [{"message": message}]
    whole = chance.choice(({"error": said}, choices, said)) if odd == 2 else {"choices": choices}
    content = json.dumps(whole).encode()
    if odd == 3:
        return damaged(content, chance)
    return chance.choice((chance.randbytes(300), b"", content * 1000)) if odd == 4 else content


def reply(chance: random.Random) -> bytes:
    """Return all bytes that a server sends; now and then nothing but the body is odd."""
    content = body(chance)
    if chance.random() < 0.4:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    headers = [chance.choice(HEADERS) for _ in range(chance.choice((0, 0, 1, 3)))]
    if chance.random() < 0.8:
        headers.append(b"Content-Length: %d" % len(content))
    version = chance.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"ICY", b""))
    raw = b"\r\n".join((version + b" " + chance.choice(STATUS), *headers, b"", content))
    return chance.choice((raw, raw, raw, damaged(raw, chance), raw[: chance.randrange(len(raw))]))


class Server:
    """Takes connections one after another, and to each sends a reply in pieces: at once, slowly, or never to its end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.reply = b""
        self.pace_s = 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        content, pace_s = self.reply, self.pace_s
        with connection, contextlib.suppress(OSError):  # the client may hang up
            connection.settimeout(2)
            connection.recv(1 << 16)
            if pace_s == 0:
                connection.sendall(content)
                return
            for at in range(min(len(content), 200)):
                connection.sendall(content[at : at + 1])
                time.sleep(pace_s)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def test_judges(server: Server, tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    url = f"http://127.0.0.1:{server.port}/v1"
    judge = Judge(url=url, model="m", retries=0, timeout=LIMIT_S, key_variable="SOME_KEY", max_failures=1)
    for number in range(size(40, 400)):
        chance = random.Random(f"{SEED} judge {number}")
        server.reply, server.pace_s = reply(chance), chance.choice((0.0,) * 9 + (0.05,))
        reward = AccuracyFormat(AccuracyFormat.Config(judge=judge))
        attempt = Attempt(Example("x", "What is it?", "a red car", meta={"answer_type": "text"}), "\\boxed{a bus}")
        begun = time.monotonic()
        try:
            (grade,) = reward.grade_all([attempt])
        except TrainingError as error:
            readable(error)
            tried("judges: the run stops")
            continue
        assert time.monotonic() - begun < LONGEST_S, number
        assert not acting(grade.reason), (number, grade.reason)
        assert KEY not in grade.reason
        assert len(grade.reason) < 300
        assert grade.parts["judged"] + grade.parts["judge_unavailable"] == 1
        assert not grade.correct or b"yes" in server.reply.lower()
        tried(f"judges: {'an opinion' if grade.parts['judged'] else 'marked as unavailable'}")
