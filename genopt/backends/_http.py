"""Owns how an engine behind HTTP is reached: one client, asking again, waiting for a server that went away, and plain
words for every failure. It knows no engine's protocol, and no other file imports httpx."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from genopt.errors import BackendError

BUSY = frozenset({429, 502, 503, 504, 529})  # the server, or a proxy, says "later": asked again for `patience`
OF_A_REQUEST = frozenset({400, 403, 413, 415, 422, 451, 500})  # may be about what is asked, and not about who asks
ATTEMPTS = 4  # of a request that failed in another way that may pass
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds
CONNECT = 5.0
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


class Refused(BackendError):
    """The server answered with an error: its HTTP `status`, and its `reply` as JSON, or as text where it is none."""

    def __init__(self, message: str, status: int, reply: Any, *, outside: bool = False) -> None:
        super().__init__(message, outside=outside)
        self.status = status
        self.reply = reply


def _may_pass(status: int, reply: Any) -> bool:
    return status in BUSY or status in (408, 500)


@dataclass
class Server:
    """One server, talked to in JSON. What a call raises is a BackendError in plain words.

    Until the first reply an unreachable server is an error at once; later ones are waited for, `patience` seconds
    altogether. A refusal that `may_pass` and a broken connection are answered by asking again, with growing pauses.
    An error of a call is `retryable` only when a reply broke off, since everything else was tried again here.

    name      what the server is called in messages;  url  its base, to which paths are appended
    start     how to start it, for people;  alive  a path that answers whenever the server runs
    timeout   seconds without a byte after which a request is given up
    hide      takes secrets out of a text: every message passes through it
    """

    name: str
    url: str
    start: str = ""
    alive: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience: float = 600.0
    timeout: float = 600.0
    may_pass: Callable[[int, Any], bool] = _may_pass
    hide: Callable[[str], str] = str
    tell: Callable[[str], None] = lambda text: None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.where = f"{self.name} at {shown(self.url)}"
        self.met = False
        self._client: httpx.AsyncClient | None = None
        self._closed = False
        self._lock = asyncio.Lock()
        self._away_since: float | None = None
        self._told = -LONGEST_PAUSE

    async def send_json(self, path: str, body: Any = None) -> Any:
        """The reply to a request as JSON: a GET without a body, else a POST. Raises Refused or BackendError."""
        async with self._reply("GET" if body is None else "POST", path, body, whole=True) as reply:
            return _parsed(reply.text) if reply.content else None

    @asynccontextmanager
    async def stream_json(self, path: str, body: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """The reply to a POST as JSON values, one per line (NDJSON) or event (SSE), as they come.

        Leaving the block closes the connection, whereby the server stops. Raises Refused or BackendError.
        """
        async with self._reply("POST", path, body, whole=False) as reply, aclosing(self._values(reply)) as values:
            yield values

    async def aclose(self) -> None:
        """Close all connections; safe to call twice."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _values(self, reply: httpx.Response) -> AsyncGenerator[Any]:
        events, rest = reply.headers.get("content-type", "").startswith("text/event-stream"), b""
        try:
            async for part in reply.aiter_bytes():
                *lines, rest = (rest + part).split(b"\n")  # at no other line break: those may stand inside a text
                for line in lines:
                    if value := _payload(line, events):
                        yield json.loads(value)
            if value := _payload(rest, events):
                yield json.loads(value)
        except (httpx.RequestError, ValueError) as error:  # ValueError: no JSON, no UTF-8
            raise self._error(f"{self.where}: the reply broke off ({reason(error)})", retryable=True) from error

    @asynccontextmanager
    async def _reply(self, method: str, path: str, body: Any, *, whole: bool) -> AsyncIterator[httpx.Response]:
        """The successful response to a request, read to its end when it is wanted `whole`."""
        content = None if body is None else json.dumps(body).encode()  # ASCII: half a surrogate pair must not fail
        attempt, began = 0, self.clock()
        while True:
            try:
                client = self._opened()
                headers = {"content-type": "application/json"} if content is not None else {}
                request = client.build_request(method, self.url + path, content=content, headers=headers)
                reply = await client.send(request, stream=True)
                try:
                    if whole or not reply.is_success:
                        await reply.aread()
                except BaseException:
                    await reply.aclose()
                    raise
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                await self._came_back(error)
                continue
            except httpx.HTTPError as error:
                attempt += 1
                await self._once_more(error, attempt)
                continue
            except httpx.InvalidURL as error:
                raise self._error(f"{shown(self.url)} is no URL ({error})") from error
            self.met, self._away_since = True, None
            try:
                if reply.is_success:
                    yield reply
                    return
            finally:
                await reply.aclose()
            attempt += 1
            await self._later(self._refused(reply), reply, attempt, began)

    def _opened(self) -> httpx.AsyncClient:
        if self._closed:
            raise BackendError(f"{self.name}: the engine is not open", hint="await backend.open() first")
        if self._client is None:
            timeout = httpx.Timeout(self.timeout, connect=CONNECT, pool=None)
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            plain = self.url.startswith("http:") and near(self.url)  # never encrypted: reading authorities takes 0.1 s
            secure = False if plain else httpx.create_ssl_context()
            self._client = httpx.AsyncClient(
                headers=dict(self.headers), timeout=timeout, limits=limits, verify=secure, trust_env=not near(self.url)
            )
        return self._client

    async def _came_back(self, error: httpx.TransportError) -> None:
        """Return when the server answers again. Raises BackendError when it never did, or not for `patience` s."""
        if not self.met or "CERTIFICATE" in str(error):
            raise self._error(f"{self.where} does not answer ({reason(error)})", hint=self._advice(error)) from error
        async with self._lock:  # one asks for all
            self._away_since = self.clock() if self._away_since is None else self._away_since
            pause, waited = 1.0, 0.0
            while not await self._answers():
                waited = self.clock() - self._away_since
                if waited >= self.patience:
                    raise self._error(
                        f"{self.where} has not answered for {waited:.0f} s ({reason(error)})", hint=self._advice(error)
                    ) from error
                self.tell(self.hide(f"{self.where} does not answer; waiting ({waited:.0f} s) ..."))
                await self.sleep(min(pause, self.patience - waited))
                pause = min(2 * pause, LONGEST_PAUSE)
            if waited:
                self.tell(self.hide(f"{self.where} answers again; going on"))
            self._away_since = None

    async def _answers(self) -> bool:
        """True when anything but "not yet" comes back."""
        try:
            reply = await self._opened().get(self.url + self.alive, timeout=CONNECT)
        except httpx.HTTPError:
            return False
        return reply.status_code not in (502, 503, 504)

    async def _once_more(self, error: httpx.HTTPError, attempt: int) -> None:
        """Pause after a broken connection. Raises BackendError when there were too many, or no reply at all yet."""
        if isinstance(error, httpx.TimeoutException):
            raise self._error(
                f"{self.where} sent nothing for {self.timeout:g} s",
                hint="raise backend.options.timeout if the model is that slow",
            ) from error
        broken = isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError))
        if not broken or not self.met or attempt >= ATTEMPTS:
            times = f", {attempt} times in a row" if attempt > 1 else ""
            raise self._error(
                f"{self.where}: the connection broke ({reason(error)}{times})", hint=self._advice(error)
            ) from error
        await self.sleep(_pause(attempt))

    async def _later(self, refused: Refused, reply: httpx.Response, attempt: int, began: float) -> None:
        """Pause after a refusal that may pass; raises it when it may not, or when it was patiently waited for."""
        waited = self.clock() - began
        enough = waited >= self.patience if reply.status_code in BUSY else attempt >= ATTEMPTS
        if enough or not self.may_pass(refused.status, refused.reply):
            raise refused
        pause = min(max(_pause(attempt), _asked_for(reply)), max(1.0, self.patience - waited))
        if pause >= 2.0 and self.clock() - self._told >= LONGEST_PAUSE:
            self._told = self.clock()
            self.tell(f"{refused}; asking again in {pause:.0f} s")
        await self.sleep(pause)

    def _refused(self, reply: httpx.Response) -> Refused:
        said = _parsed(reply.text)
        to = reply.headers.get("location")
        words = f"moved to {shown(to)}: write that URL" if reply.is_redirect and to else in_words(said)
        text = f"{self.where} answered {reply.status_code} {reply.reason_phrase}".rstrip()
        outside = reply.status_code not in OF_A_REQUEST or self.may_pass(reply.status_code, said)
        return Refused(self.hide(f"{text}: {words}" if words else text), reply.status_code, said, outside=outside)

    def _error(self, message: str, *, retryable: bool = False, hint: str = "") -> BackendError:
        return BackendError(self.hide(message), retryable=retryable, outside=True, hint=self.hide(hint))

    def _advice(self, error: Exception) -> str:
        """What a person can do about a server that is not reached."""
        if "CERTIFICATE" in str(error):
            return "its certificate is not trusted here: set SSL_CERT_FILE to the file of the authority that signed it"
        proxies = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
        asked = ""
        if proxies and not near(self.url):
            asked = f"{' and '.join(proxies)} is set, and the server is asked through it; NO_PROXY names exceptions"
        return ". ".join(part for part in (self.start, asked) if part)


def near(url: str) -> bool:
    """True for a server on this machine or in a private network, which no proxy of the environment leads to."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))
    return address.is_private or address.is_loopback or address.is_link_local


def shown(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an unreadable URL)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def in_words(reply: Any) -> str:
    """What an error reply says, on one line of at most 300 characters; it may be wrapped, also as JSON in a string."""
    found = reply
    for _ in range(4):
        found = _parsed(found) if isinstance(found, str) and found.startswith("{") else found
        if not isinstance(found, Mapping):
            break
        found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), str(dict(found)))
    return " ".join(str(found).split())[:300]


def reason(error: BaseException) -> str:
    """Why a connection failed: the system's own words, which stand deep in the chain of causes."""
    for inner in _causes(error):
        if isinstance(inner, OSError) and inner.errno and not isinstance(inner, ssl.SSLError):
            return (os.strerror(inner.errno) if inner.errno > 0 else str(inner.strerror)).lower()
    return " ".join(str(error).split()) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the deepest first."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    below = error.__cause__ or error.__context__
    if below is not None:
        yield from _causes(below)
    yield error


def _payload(line: bytes, event: bool) -> bytes:
    """The JSON of a line, or of a line of an event stream; empty for one that holds none."""
    if event:
        kind, _, line = line.partition(b":")
        line = line if kind == b"data" and line.strip() != b"[DONE]" else b""
    return line.strip()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _pause(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and spread so that many do not come back at once."""
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt - 1, 10))
    return longest * random.uniform(0.5, 1.0)


def _asked_for(reply: httpx.Response) -> float:
    """The seconds a server asks to wait (Retry-After, RFC 9110 10.2.3); 0 when it does not."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
