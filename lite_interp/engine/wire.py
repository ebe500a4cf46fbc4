"""JSON over HTTP to one server: on this machine, unless told otherwise. Answers are hostile.

No redirect is followed and no proxy of the environment is used: `http.client` knows of neither.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import math
import socket
import time
from collections import deque
from typing import Any, NamedTuple, NoReturn, cast
from urllib.parse import unquote, urlsplit

from lite_interp.engine import EngineFailure
from lite_interp.errors import EngineError, one_line

CONNECT_SECONDS = 10.0
"""How long a server may take to accept a connection."""
ANSWER_SECONDS = 900.0
"""How long it may take to answer: a long text on a slow machine takes minutes."""
LARGEST_ANSWER = 1 << 26
"""Bytes; the probabilities of 256,000 tokens take half of it."""

_LOCAL = "http://127.0.0.1:8080"


class Refusal(EngineError):
    """The server understands and will not do it: a status from 300 to 499, or 501."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        """Keep the status, by which callers tell an address that is not there."""
        super().__init__(message, hint)
        self.status = status


class Unreachable(EngineFailure):
    """A connection that broke: what was asked may be the reason."""


class Absent(EngineError):
    """No connection at all: whatever is asked, nobody answers, so the run ends."""


class Address(NamedTuple):
    """Where a server is."""

    secure: bool
    """Whether it is https."""
    host: str
    """Host name or address, without brackets."""
    port: int
    """Port."""
    path: str
    """What stands before the paths of the server, without a slash at its end; mostly empty."""
    user: str
    """`user:password`, or empty."""

    def __str__(self) -> str:
        """The URL without user and password, fit to be shown and kept."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return one_line(f"http{'s' * self.secure}://{host}:{self.port}{self.path}")


def read_address(url: str, allow_remote: bool) -> Address:
    """The address in a URL.

    Args:
        url: base URL; a `/v1` at its end is dropped.
        allow_remote: whether another machine may be meant.

    Raises:
        EngineError: no URL of a server, or one of another machine. No name was looked up.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise EngineError(f"no URL of a server: {one_line(url)}", f"write it as: {_LOCAL}")
    path = parts.path.rstrip("/").removesuffix("/v1")
    if not f"{host}{path}".isascii() or not f"{host}{path}".isprintable() or " " in host + path:
        raise EngineError(f"no URL of a server: {one_line(url)}", f"write it as: {_LOCAL}")
    secure = parts.scheme == "https"
    user = ":".join(unquote(each) for each in (parts.username, parts.password) if each is not None)
    found = Address(secure, host, port or (443 if secure else 80), path, user)
    if not allow_remote and host != "localhost" and not _is_loopback(host):
        raise EngineError(
            f"this server is not on this machine: {found}",
            "corpus text would leave the machine; if it may: --allow-remote",
        )
    return found


class Wire:
    """Connections to one server, kept open; may be used by many threads."""

    def __init__(self, address: Address, allow_remote: bool, seconds: float = ANSWER_SECONDS):
        """Prepare; nothing is opened yet.

        Args:
            address: the server.
            allow_remote: whether it may turn out to be another machine.
            seconds: how long an answer may take.
        """
        self.address = address
        self._allow_remote = allow_remote
        self._seconds = seconds
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._all: set[http.client.HTTPConnection] = set()
        self._closed = False
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if address.user:
            token = base64.b64encode(address.user.encode()).decode("ascii")
            self._headers["Authorization"] = f"Basic {token}"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers: POST with a body, GET without one.

        Raises:
            EngineFailure: no answer, a failure of the server, or an answer that is no JSON.
            Refusal: the server will not do it.
            EngineError: `localhost` led to another machine.
        """
        while True:
            if self._closed:
                raise ValueError("the engine is closed")
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._new_connection()
            kept = connection.sock is not None
            try:
                status, data = self._exchange(connection, path, body)
                break
            except (OSError, http.client.HTTPException) as error:
                self._drop(connection)
                # A server may close an idle connection at any time: that one does not count.
                if not kept or not isinstance(
                    error, http.client.RemoteDisconnected | ConnectionError
                ):
                    why = one_line(error) or type(error).__name__
                    if isinstance(error, ConnectionRefusedError | socket.gaierror):
                        raise Absent(
                            f"no answer from the server: {why}: {self.address}",
                            "start it again; the same command goes on from here",
                        ) from error
                    raise Unreachable(f"no answer from the server: {why}") from error
            except BaseException:
                self._drop(connection)
                raise
        self._idle.append(connection)
        if not 200 <= status < 300:
            self._refuse(status, data)
        return _parse(data)

    def close(self) -> None:
        """Close all connections, those in use too; closing twice is harmless."""
        self._closed = True
        for connection in list(self._all):
            if isinstance(connection.sock, socket.socket):
                with contextlib.suppress(OSError):
                    # Wakes up a thread that waits for an answer; to close it would not.
                    connection.sock.shutdown(socket.SHUT_RDWR)
            self._drop(connection)

    def _new_connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.address.secure else http.client.HTTPConnection
        connection = kind(self.address.host, self.address.port, timeout=CONNECT_SECONDS)
        self._all.add(connection)
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        self._all.discard(connection)
        connection.close()

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any] | None
    ) -> tuple[int, bytes]:
        """Ask and read, within the limits of time and size."""
        end = time.monotonic() + self._seconds
        if connection.sock is None:
            connection.connect()
            peer = cast(socket.socket, connection.sock).getpeername()[0]
            if not self._allow_remote and not _is_loopback(peer):
                raise EngineError(
                    f"this server is not on this machine: {self.address}: {one_line(peer)}",
                    "corpus text would leave the machine; if it may: --allow-remote",
                )
        cast(socket.socket, connection.sock).settimeout(self._seconds)
        data = None if body is None else json.dumps(body).encode("ascii")
        method = "GET" if data is None else "POST"
        connection.request(method, self.address.path + path, data, self._headers)
        response = connection.getresponse()
        blocks, size = [], 0
        while block := response.read(1 << 18):
            size += len(block)
            blocks.append(block)
            if size > LARGEST_ANSWER:
                raise EngineFailure(f"the server's answer is longer than: {LARGEST_ANSWER} bytes")
            if time.monotonic() > end:
                raise EngineFailure(f"the server's answer takes longer than: {self._seconds:g} s")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return response.status, b"".join(blocks)

    def _refuse(self, status: int, data: bytes) -> NoReturn:
        reason = f"{status}: {_message(data)}"
        if status in (408, 429) or (status >= 500 and status != 501):
            raise EngineFailure(f"the server failed: {reason}")
        if status in (401, 403):
            raise Refusal(status, f"the server wants a key: {self.address}", "start it without one")
        if 300 <= status < 400:
            raise Refusal(
                status,
                f"the server points to another address, which is not followed: {self.address}",
                "give the address of the engine itself",
            )
        raise Refusal(status, f"the server refuses: {reason}")


def dig(data: Any, kind: type, *path: str | int) -> Any:
    """A value inside an answer.

    Args:
        data: the answer, or a part of it.
        kind: what the value must be; `float` takes whole numbers too, and nothing infinite.
        path: keys and indices that lead to it.

    Raises:
        EngineFailure: there is no such value.
    """
    for step in path:
        fits = (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and -len(data) <= step < len(data)
        )
        if not fits:
            raise _odd(path)
        data = cast(Any, data)[step]
    if kind is float and type(data) in (int, float) and math.isfinite(data):
        return float(data)
    if type(data) is not kind or kind is float:
        raise _odd(path)
    return data


def _odd(path: tuple[str | int, ...]) -> EngineFailure:
    where = "/".join(map(str, path))
    return EngineFailure(f"the server's answer is not of the expected form: {where or 'all of it'}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EngineFailure("the server's answer is no JSON") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _message(data: bytes) -> str:
    """What a server says is wrong, in one line."""
    try:
        found: Any = json.loads(data[:10_000])
        for key in ("error", "message", "detail"):
            found = found.get(key, found) if isinstance(found, dict) else found
    except (ValueError, RecursionError):
        found = data[:200].decode("utf-8", "replace")
    return one_line(found)[:200] or "it does not say why"
