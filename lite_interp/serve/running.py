"""Serve a results file on this machine until somebody stops it."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from lite_interp.db.caches import the_cache
from lite_interp.db.file import open_results, read_results, refuse_unusable
from lite_interp.errors import UsageError, one_line
from lite_interp.serve.app import make_app
from lite_interp.serve.guard import Guard
from lite_interp.serve.live import Models, open_live

ADDRESS = "127.0.0.1"
"""Nobody elsewhere can ask."""


def serve(
    path: Path,
    cache: str,
    models: Models,
    port: int,
    rating: bool,
    ready: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C.

    Args:
        path: the results file.
        cache: beginning of the cache's id.
        models: what may be loaded later.
        port: where; 0 = any that is free.
        rating: whether people may rate, which writes to the file.
        ready: gets the address, secret token included, once questions are answered.

    Raises:
        UsageError: the port is taken, or there is no such cache.
        ResultsError: the file cannot be read, or for rating not written to.
    """
    if rating:
        refuse_unusable(path)
    with read_results(path) as db:
        the_cache(db, cache)  # refused before an index is made, which may take a while
    with _bound(port) as bound:
        port = bound.getsockname()[1]
        token = secrets.token_urlsafe(24)
        with open_live(path, cache, models, rating) as live:
            app = Guard(make_app(live, f"{path.name}, live"), token, port)
            config = uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
            bound.listen()
            ready(f"http://{ADDRESS}:{port}/{token}/")
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[bound])
    if rating:
        # While it was open to be read, the log beside the file could not be put into it.
        with open_results(path):
            pass


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((ADDRESS, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise UsageError(
            f"cannot serve on port {port}: {one_line(getattr(error, 'strerror', None) or error)}",
            "--port 0 takes any that is free",
        ) from error
    return bound
