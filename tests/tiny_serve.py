"""Questions to a served results file, without a socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager

import httpx

from lite_interp.reopening import Places
from lite_interp.serve.app import make_app
from lite_interp.serve.guard import Guard
from lite_interp.serve.live import Models, open_live

PORT, TOKEN = 8123, "s3cret-token"
HOME = f"http://127.0.0.1:{PORT}/{TOKEN}/"


class Asker:
    """Asks an application as a browser would, and knows what is open behind it."""

    def __init__(self, live):
        """Serve what is open."""
        self.live = live
        self.app = Guard(make_app(live, "title"), TOKEN, PORT)

    def send(self, method, address, **settings):
        """One question; the whole answer."""

        async def talk():
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(method, address, **settings)

        return asyncio.run(talk())

    def get(self, path, **parameters):
        """The JSON behind `api/`."""
        return self.send("GET", f"{HOME}api/{path}", params=parameters).json()

    def post(self, path, **body):
        """The same, of a question with a body."""
        return self.send("POST", f"{HOME}api/{path}", json=body).json()

    def rows(self, first=0, n=500, **query):
        """Rows of the table."""
        return self.get("rows", query=query_json(**query), first=first, n=n)


def query_json(**changes):
    """A query as the page sends it."""
    plain = {"text": "", "arm": "", "diagnosis": "", "show": "value", "key": "latent"}
    return json.dumps({**plain, "down": False, "ranges": [], **changes})


@contextmanager
def served(path, rating=False, places=None, embedder="nobody"):
    """A results file, served."""
    with open_live(path, "", Models(places or Places(), embedder), rating) as live:
        yield Asker(live)
