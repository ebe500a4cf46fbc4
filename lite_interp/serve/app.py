"""The pages' questions and their answers: one page, and JSON behind `api/`.

Functions are `async` only so that they run in the one thread that holds the file; nothing is
awaited but a question's body.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lite_interp.errors import LiteInterpError, one_line
from lite_interp.report.page import page_script, page_shell, page_style, policy
from lite_interp.serve import asking, live
from lite_interp.serve.live import Live
from lite_interp.serve.table import Query

MOST_ROWS = 500
"""Rows of the table that are sent at once."""
ALLOWED = ("connect-src 'self'", "frame-ancestors 'none'")
"""What a live page may do beside a report: ask here. Nobody may put it into a frame."""

Answer = Callable[[Live, Request], Awaitable[Response]]


def make_app(served: Live, title: str) -> Starlette:
    """The application.

    Args:
        served: what is open.
        title: what a browser calls the page.
    """

    def route(path: str, answer: Answer, method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await answer(served, request)
            except LiteInterpError as error:
                said = {"error": one_line(error), "hint": one_line(error.hint or "")}
                return JSONResponse(said, 422)
            except (ValueError, KeyError, TypeError) as error:
                return JSONResponse({"error": f"not a question: {one_line(error)}"}, 400)

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
    first, n = (int(request.query_params[name]) for name in ("first", "n"))
    return _json(served.table.page(_query(request), max(0, first), max(0, min(n, MOST_ROWS))))


async def _place(served: Live, request: Request) -> Response:
    latent = int(request.query_params["latent"])
    return JSONResponse(served.table.place(_query(request), latent))


def _query(request: Request) -> Query:
    """What the table is asked for: JSON in the parameter `query`, without what is as it was."""
    said = json.loads(request.query_params["query"])
    ranges = tuple((str(key), _bound(low), _bound(high)) for key, low, high in said.pop("ranges"))
    texts = {name: str(said.pop(name)) for name in ("text", "arm", "diagnosis", "show", "key")}
    return Query(**texts, down=bool(said.pop("down")), ranges=ranges)


def _bound(value: Any) -> float | None:
    return None if value is None else float(value)


async def _plotted(served: Live, request: Request) -> Response:
    return _json(served.table.plotted(request.query_params["arm"]))


async def _latent(served: Live, request: Request) -> Response:
    return JSONResponse(live.served_latent(served, int(request.query_params["latent"])))


async def _search(served: Live, request: Request) -> Response:
    meaning = request.query_params.get("meaning") == "1"
    return JSONResponse(live.found_latents(served, request.query_params["text"], meaning))


async def _fires(served: Live, request: Request) -> Response:
    return JSONResponse(live.fired_latents(served, (await _said(request))["text"]))


async def _rated(served: Live, request: Request) -> Response:
    return JSONResponse(asking.rated(served))


async def _asked(served: Live, request: Request) -> Response:
    said = await _said(request)
    later = [str(name) for name in said["later"]]
    return JSONResponse(asking.asked(served, said["rater"], said["task"], later))


async def _answered(served: Live, request: Request) -> Response:
    return JSONResponse(asking.answered(served, await _said(request)))


async def _taken_back(served: Live, request: Request) -> Response:
    return JSONResponse(asking.taken_back(served, await _said(request)))


async def _said(request: Request) -> dict[str, Any]:
    """A body of JSON, which no form of another page can send."""
    if request.headers.get("content-type") != "application/json":
        raise ValueError("a body of JSON is wanted")
    said = await request.json()
    if not isinstance(said, dict):
        raise ValueError("an object is wanted")
    return said


ANSWERS: dict[str, tuple[str, Answer]] = {
    "overview": ("GET", _overview),
    "rows": ("GET", _rows),
    "place": ("GET", _place),
    "plotted": ("GET", _plotted),
    "latent": ("GET", _latent),
    "search": ("GET", _search),
    "fires": ("POST", _fires),
    "rated": ("GET", _rated),
    "asked": ("POST", _asked),
    "answered": ("POST", _answered),
    "taken-back": ("POST", _taken_back),
}
"""Path behind `api/` → method, and what answers."""
