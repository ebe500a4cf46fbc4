"""The pages' questions and their answers: one page, and JSON behind `api/`.

Functions are `async` only so that they run in the one thread that holds the file; nothing is
awaited but a question's body.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lite_interp.db.file import plain_errors
from lite_interp.errors import LiteInterpError, UsageError, one_line
from lite_interp.report.page import page_script, page_shell, page_style, policy
from lite_interp.serve import asking, live
from lite_interp.serve.live import Live
from lite_interp.serve.table import Query

MOST_ROWS = 500
"""Rows of the table that are sent at once."""
GREATEST = 2**53
"""Number that is asked for; beyond every place and latent."""
ALLOWED = ("connect-src 'self'", "frame-ancestors 'none'")
"""What a live page may do beside a report: ask here. Nobody may put it into a frame."""

Answer = Callable[[Live, Request], Awaitable[Response]]
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What comes of reading something else than a question."""


class NoQuestionError(UsageError):
    """What was sent cannot be read as a question."""


@contextmanager
def _reading() -> Iterator[None]:
    """Around the reading of a question alone: an error in answering it is a bug."""
    try:
        yield
    except UNREADABLE as error:
        raise NoQuestionError(f"not a question: {one_line(error)}") from error


def make_app(served: Live, title: str) -> Starlette:
    """The application.

    Args:
        served: what is open.
        title: what a browser calls the page.
    """

    def route(path: str, answer: Answer, method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                with plain_errors(served.path):
                    return await answer(served, request)
            except LiteInterpError as error:
                said = {"error": one_line(error), "hint": one_line(error.hint or "")}
                return JSONResponse(said, 400 if isinstance(error, NoQuestionError) else 422)
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody: the browser has gone

        return Route(path, endpoint, methods=[method])

    page, headers = _page(title)

    async def home(_: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    routes = [route(f"/api/{path}", answer, method) for path, (method, answer) in ANSWERS.items()]
    return Starlette(routes=[Route("/", home), *routes])


def _page(title: str) -> tuple[str, dict[str, str]]:
    """The page, and the policy that goes with it as a header, where it counts for frames too."""
    script = page_script("live.js", "finding.js", "rating.js", "served.js")
    style = page_style("live.css")
    allowed = policy(script, style, ALLOWED[0])
    shell = page_shell().render(
        title=title, policy=allowed, script=script, style=style, overview=None, latents=()
    )
    return shell, {"content-security-policy": policy(script, style, *ALLOWED)}


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


async def _overview(served: Live, request: Request) -> Response:
    return _json(served.overview)


async def _rows(served: Live, request: Request) -> Response:
    query, first, n = _query(request), _number(request, "first"), _number(request, "n")
    return _json(served.table.page(query, max(0, first), max(0, min(n, MOST_ROWS))))


async def _place(served: Live, request: Request) -> Response:
    return JSONResponse(served.table.place(_query(request), _number(request, "latent")))


def _parameter(request: Request, name: str) -> str:
    with _reading():
        return request.query_params[name]


def _number(request: Request, name: str) -> int:
    with _reading():
        return max(-GREATEST, min(int(request.query_params[name]), GREATEST))


def _query(request: Request) -> Query:
    """What the table is asked for: JSON in the parameter `query`, without what is as it was."""
    with _reading():
        said = json.loads(request.query_params["query"])
        given = said.pop("ranges")
        ranges = tuple((str(key), _bound(low), _bound(high)) for key, low, high in given)
        texts = {name: str(said.pop(name)) for name in ("text", "arm", "diagnosis", "show", "key")}
        return Query(**texts, down=bool(said.pop("down")), ranges=ranges)


def _bound(value: Any) -> float | None:
    return None if value is None else float(value)


async def _plotted(served: Live, request: Request) -> Response:
    return _json(served.table.plotted(_parameter(request, "arm")))


async def _latent(served: Live, request: Request) -> Response:
    return JSONResponse(live.served_latent(served, _number(request, "latent")))


async def _windows(served: Live, request: Request) -> Response:
    return JSONResponse(live.drawn_windows(served, _number(request, "latent")))


async def _search(served: Live, request: Request) -> Response:
    meaning = request.query_params.get("meaning") == "1"
    return JSONResponse(live.found_latents(served, _parameter(request, "text"), meaning))


async def _fires(served: Live, request: Request) -> Response:
    (text,) = await _said(request, "text")
    if not isinstance(text, str):
        raise NoQuestionError("not a question: a text is wanted")
    return JSONResponse(live.fired_latents(served, text))


async def _rated(served: Live, request: Request) -> Response:
    return JSONResponse(asking.rated(served))


async def _asked(served: Live, request: Request) -> Response:
    rater, task, later = await _said(request, "rater", "task", "later")
    with _reading():
        names = [str(name) for name in later]
    return JSONResponse(asking.asked(served, rater, task, names))


async def _answered(served: Live, request: Request) -> Response:
    wanted = ("rater", "task", "name", "answer", "seconds")
    rater, task, name, answer, seconds = await _said(request, *wanted)
    with _reading():
        seconds = float(seconds)
    return JSONResponse(asking.answered(served, rater, task, str(name), answer, seconds))


async def _taken_back(served: Live, request: Request) -> Response:
    rater, task = await _said(request, "rater", "task")
    return JSONResponse(asking.taken_back(served, rater, task))


async def _said(request: Request, *names: str) -> list[Any]:
    """Values in a body of JSON, which no form of another page can send."""
    with _reading():
        if request.headers.get("content-type") != "application/json":
            raise ValueError("a body of JSON is wanted")
        said = await request.json()
        return [said[name] for name in names]


ANSWERS: dict[str, tuple[str, Answer]] = {
    "overview": ("GET", _overview),
    "rows": ("GET", _rows),
    "place": ("GET", _place),
    "plotted": ("GET", _plotted),
    "latent": ("GET", _latent),
    "windows": ("GET", _windows),
    "search": ("GET", _search),
    "fires": ("POST", _fires),
    "rated": ("GET", _rated),
    "asked": ("POST", _asked),
    "answered": ("POST", _answered),
    "taken-back": ("POST", _taken_back),
}
"""Path behind `api/` → method, and what answers."""
