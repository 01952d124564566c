"""A server that fails in every way: what is asked again, what is waited for, and what people are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from genopt.backends._http import LONGEST_PAUSE, Refused, Server, in_words, near, shown
from genopt.errors import BackendError

Scenario = Callable[["Line"], Awaitable[None]]
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"text":"ok"}'.replace(b"12", b"13")


def answer(status: int, body: str = "", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(body.encode())}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def chunks(kind: str, *lines: str, end: bool = True) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    parts = b"".join(f"{len(line.encode()):x}\r\n{line}\r\n".encode() for line in lines)
    return head + parts + (b"0\r\n\r\n" if end else b"")


class Line:
    """A server that gives the replies of a script in order, the last one for ever; None breaks the connection."""

    def __init__(self, script: list[bytes | None]) -> None:
        self.script = script
        self.asked: list[tuple[str, Any]] = []
        self.told: list[str] = []
        self.pauses: list[float] = []
        self.time = 0.0
        self.port = 0
        self.gone = asyncio.Event()
        self.on_pause: Callable[[], Awaitable[None]] | None = None
        self.listening: asyncio.Server | None = None

    async def start(self) -> None:
        self.listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.listening is not None:
            self.listening.close()
            self.listening = None

    def server(self, **changes: Any) -> Server:
        settings: dict[str, Any] = {"url": f"http://127.0.0.1:{self.port}", "start": "start it with: serve"}
        settings |= {"tell": self.told.append, "sleep": self._sleep, "clock": lambda: self.time}
        return Server("Engine", **(settings | changes))

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        if self.on_pause is not None:
            await self.on_pause()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := (await reader.readline()).decode():
                length = 0
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(": ")
                    length = int(value) if name.lower() == "content-length" else length
                body = await reader.readexactly(length)
                self.asked.append((line.split()[1], json.loads(body) if body else None))
                reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
                if b"chunked" in reply and not reply.endswith(b"0\r\n\r\n"):
                    if b"hang" in reply:
                        await reader.read()  # until the client hangs up
                        self.gone.set()
                    return
        except ConnectionError:
            pass
        finally:
            writer.close()


def play(script: list[bytes | None], scenario: Scenario) -> Line:
    async def session() -> Line:
        line = Line(script)
        await line.start()
        try:
            await asyncio.wait_for(scenario(line), 20)
        finally:
            await line.stop()
        return line

    return asyncio.run(session())


def raised(script: list[bytes | None], *, met: bool = True, **changes: Any) -> tuple[BackendError, Line]:
    found: list[BackendError] = []

    async def scenario(line: Line) -> None:
        server = line.server(**changes)
        server.met = met
        with pytest.raises(BackendError) as caught:
            await server.send_json("/x", {"a": 1})
        found.append(caught.value)
        await server.aclose()

    return found[0] if (line := play(script, scenario)) and found else pytest.fail("nothing was raised"), line


def test_a_reply_is_json_and_a_body_makes_it_a_post() -> None:
    async def scenario(line: Line) -> None:
        server = line.server()
        assert await server.send_json("/get") == {"text": "ok"}
        assert await server.send_json("/post", {"half": "\ud83d", "other": "ü"}) == {"text": "ok"}
        assert line.asked == [("/get", None), ("/post", {"half": "\ud83d", "other": "ü"})]
        await server.aclose()
        await server.aclose()
        with pytest.raises(BackendError, match="not open"):
            await server.send_json("/get")

    play([OK], scenario)


def test_a_server_that_never_answered_is_an_error_at_once() -> None:
    async def scenario(line: Line) -> None:
        await line.stop()
        server = line.server()
        with pytest.raises(BackendError) as caught:
            await server.send_json("/x")
        await server.aclose()
        assert str(caught.value) == f"Engine at http://127.0.0.1:{line.port} does not answer (connection refused)"
        assert caught.value.hint == "start it with: serve" and not caught.value.retryable
        assert line.pauses == [] and line.told == []

    play([OK], scenario)


def test_a_host_that_does_not_exist_is_named_with_the_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    error, line = raised([OK], met=False, url="http://engine.example.org:1234/v1")
    assert "http://engine.example.org:1234/v1 does not answer" in str(error)
    assert "HTTP_PROXY is set" in error.hint and "NO_PROXY" in error.hint and "secret" not in str(error) + error.hint
    assert line.asked == []


def test_a_server_that_went_away_is_waited_for() -> None:
    async def scenario(line: Line) -> None:
        server = line.server()
        await server.send_json("/first")
        await line.stop()
        await server.aclose()
        server = line.server()
        server.met = True

        async def back() -> None:
            if len(line.pauses) == 4:
                await line.start()

        line.on_pause = back
        replies = await asyncio.gather(*(server.send_json("/x", n) for n in range(3)))
        assert replies == [{"text": "ok"}] * 3
        assert line.pauses == [1.0, 2.0, 4.0, 8.0], "one asks for all, with growing pauses"
        where = f"Engine at http://127.0.0.1:{line.port}"
        assert line.told[1] == f"{where} does not answer; waiting (1 s) ..."
        assert line.told[3:] == [f"{where} does not answer; waiting (7 s) ...", f"{where} answers again; going on"]
        await server.aclose()

    play([OK], scenario)


def test_patience_ends_for_all_at_once() -> None:
    async def scenario(line: Line) -> None:
        await line.stop()
        server = line.server(patience=100)
        server.met = True
        errors = await asyncio.gather(*(server.send_json("/x") for _ in range(3)), return_exceptions=True)
        for error in errors:
            assert isinstance(error, BackendError) and not error.retryable
            assert "has not answered for 100 s (connection refused)" in str(error) and error.hint
        assert sum(line.pauses) == 100 and max(line.pauses) == LONGEST_PAUSE
        await server.aclose()

    play([OK], scenario)


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    async def scenario(line: Line) -> None:
        server = line.server()
        assert await server.send_json("/x", {"a": 1}) == {"text": "ok"}
        assert line.asked == [("/x", {"a": 1})] * 4
        assert 0.125 <= line.pauses[0] <= 0.25 and line.pauses[1:] == [7.0, 20.0]
        assert line.told == [
            f"Engine at http://127.0.0.1:{line.port} answered 503 Words: wait; asking again in 7 s",
        ], "not at every pause"
        await server.aclose()

    busy = answer(503, '{"error": "wait"}', "Retry-After: 7")
    play([answer(429), busy, answer(502, "", "Retry-After: 20"), OK], scenario)


def test_a_busy_server_is_given_up_when_patience_ends() -> None:
    error, line = raised([answer(503, '{"error": "server busy"}')], patience=60)
    assert isinstance(error, Refused) and error.status == 503 and not error.retryable
    assert str(error).endswith("answered 503 Words: server busy")
    assert error.outside and not error.final, "no request is to blame"
    assert 60 <= sum(line.pauses) < 75 and len(line.pauses) > 5
    assert all(a < b for a, b in zip(line.pauses[:-1:2], line.pauses[2:-1:2], strict=False)), "growing"


def test_a_failure_inside_the_server_is_tried_four_times() -> None:
    error, line = raised([answer(500, "oops")])
    assert isinstance(error, Refused) and error.reply == "oops" and error.outside
    assert len(line.asked) == 4


def test_an_adapter_says_what_may_pass() -> None:
    error, line = raised(
        [answer(500, '{"error": "wrong type"}')], may_pass=lambda status, reply: "wrong" not in str(reply)
    )
    assert isinstance(error, Refused) and error.reply == {"error": "wrong type"} and error.final
    assert len(line.asked) == 1 and line.pauses == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_will_not_pass_is_never_asked_again(status: int) -> None:
    error, line = raised([answer(status, '{"detail": "no"}')])
    assert isinstance(error, Refused) and error.status == status and not error.retryable
    assert error.final is (status in (400, 403, 413, 422)), "the others are about who asks, or for whom"
    assert len(line.asked) == 1


def test_a_broken_connection_is_tried_again() -> None:
    async def scenario(line: Line) -> None:
        server = line.server()
        server.met = True
        assert await server.send_json("/x") == {"text": "ok"}
        assert len(line.asked) == 3 and len(line.pauses) == 2
        await server.aclose()

    play([None, chunks("application/json", '{"text":', end=False), OK], scenario)


def test_a_connection_that_always_breaks_is_given_up() -> None:
    error, line = raised([None])
    assert "the connection broke" in str(error) and "4 times in a row" in str(error)
    assert len(line.asked) == 4
    error, line = raised([None], met=False)
    assert "the connection broke" in str(error) and len(line.asked) == 1


def test_silence_is_given_up() -> None:
    error, _ = raised([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"], timeout=0.05)
    assert "sent nothing for 0.05 s" in str(error) and error.outside and "timeout" in error.hint


def test_a_redirect_is_named() -> None:
    error, _ = raised([answer(301, "", "Location: https://u:p@else.example/v1?k=1")])
    assert "moved to https://else.example/v1: write that URL" in str(error)


def test_secrets_stay_out_of_every_message() -> None:
    error, _ = raised(
        [answer(401, '{"error": {"message": "wrong key sk-1"}}')], hide=lambda t: t.replace("sk-1", "***")
    )
    assert "wrong key ***" in str(error)


def test_lines_and_events_are_values_as_they_come() -> None:
    async def read(line: Line) -> list[Any]:
        server = line.server()
        async with server.stream_json("/x", {}) as values:
            found = [value async for value in values]
        await server.aclose()
        return found

    async def scenario(line: Line) -> None:
        assert await read(line) == [{"n": 1}, {"n": "ü\x85\u2028"}]
        assert await read(line) == [{"n": 1}, {"n": 2}]

    lines = chunks("application/x-ndjson", '{"n": 1}\n{"n"', ': "ü\x85\u2028"}\n\n')
    events = chunks("text/event-stream", ': hi\n\nevent: x\ndata: {"n": 1}\n\n', 'data:{"n": 2}\n\ndata: [DONE]\n\n')
    play([lines, events], scenario)


@pytest.mark.parametrize("last", ['{"n": 2', '{"n": 2}\n'])
def test_a_stream_that_breaks_off_may_be_tried_again(last: str) -> None:
    async def scenario(line: Line) -> None:
        server, seen = line.server(), []
        with pytest.raises(BackendError, match="the reply broke off") as caught:
            async with server.stream_json("/x", {}) as values:
                async for value in values:
                    seen.append(value)
        assert caught.value.retryable and seen[0] == {"n": 1}
        await server.aclose()

    play([chunks("application/x-ndjson", '{"n": 1}\n', last, end=False)], scenario)


def test_cancelling_hangs_up() -> None:
    async def scenario(line: Line) -> None:
        server, began = line.server(), asyncio.Event()

        async def read() -> None:
            async with server.stream_json("/x", {}) as values:
                async for _ in values:
                    began.set()

        task = asyncio.ensure_future(read())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(line.gone.wait(), 5)
        await server.aclose()

    play([chunks("application/x-ndjson", '{"hang": 1}\n', end=False)], scenario)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:11434", True), ("http://[::1]:1", True), ("http://localhost", True),
        ("http://10.1.2.3", True),
        ("http://ollama:11434", True), ("http://node7.local", True), ("http://192.168.1.5/v1", True),
        ("https://api.openai.com/v1", False), ("http://8.8.8.8", False), ("http://node7.cluster.org", False),
    ],
)  # fmt: skip
def test_only_servers_far_away_are_asked_through_a_proxy(url: str, private: bool) -> None:
    assert near(url) is private


def test_a_url_is_shown_without_its_password() -> None:
    assert shown("https://me:pw@host:1/v1?key=2#x") == "https://host:1/v1"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"error": "plain"}, "plain"),
        ({"error": {"message": "deep\n er"}}, "deep er"),
        ({"error": '{"error": {"code": 400, "message": "nested"}}'}, "nested"),
        ({"detail": "d"}, "d"),
        ("text", "text"),
        ("", ""),
        ({"other": 1}, "{'other': 1}"),
    ],
)
def test_the_words_of_an_error_are_found(reply: Any, words: str) -> None:
    assert in_words(reply) == words
