"""Who may ask: one who knows the token, from this machine, from a page of ours.

A page elsewhere that guesses the port can make a browser ask here, under a host name of its own
too (DNS rebinding). So the host must be ours, an origin must be ours if there is one, a browser
must not say that the question comes from another site, and the path begins with a secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""With every answer."""
MOST_BYTES = 1_000_000
"""Of a question's body."""
SAME_SITE = ("same-origin", "none")
"""What a browser says of a question by our page, or by a person who typed the address."""


class Guard:
    """An application behind a secret path; everybody else gets 403 and not a word more."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """Guard an application on a port of this machine.

        Args:
            app: what is guarded; it sees paths without the token.
            token: the first part of every path.
            port: where it is served.
        """
        self.app = app
        self.token = token.encode("ascii")
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        path = self._allowed(scope)
        if path is None:
            await _refuse(with_headers, 403, b"forbidden")
        elif _length(_headers(scope)) > MOST_BYTES:
            await _refuse(with_headers, 413, b"too long")
        else:
            await self.app({**scope, "path": path, "raw_path": None}, receive, with_headers)

    def _allowed(self, scope: Scope) -> str | None:
        """The path behind the token; None if this question is not answered."""
        headers = _headers(scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts or (origin is not None and origin != f"http://{host}"):
            return None
        if headers.get("sec-fetch-site", "none") not in SAME_SITE:
            return None
        _, _, rest = scope["path"].partition("/")
        token, slash, path = rest.partition("/")
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.token) or not slash:
            return None
        return f"/{path}"


def _headers(scope: Scope) -> Mapping[str, str]:
    return {
        key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]
    }


def _length(headers: Mapping[str, str]) -> int:
    """Bytes of the body as announced; one of unknown length counts as too long."""
    if "transfer-encoding" in headers:
        return MOST_BYTES + 1
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() else MOST_BYTES + 1


async def _refuse(send: Send, status: int, text: bytes) -> None:
    kind = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": text})
