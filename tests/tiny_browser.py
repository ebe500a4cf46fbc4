"""A browser for tests of pages, and what pages must survive."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = (
    "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'>"
    "<svg onload=window.ran=1><a href='javascript:window.ran=1'>x</a>{{7*7}}${7*7}"
    "<iframe src='http://example.invalid/'></iframe><link rel=stylesheet href=//example.invalid>"
    "\x1b[2J\x1b]0;t\x07\x00\u202egnol\u2066 \U000e0041"
)
TABLE = ".rows tbody a"


def chromium_path():
    """Where a Chromium is that Playwright can drive; None if there is none."""
    named = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]
    return next((path for path in named if path), None)


class Tab:
    """A page with a record of what it asked for, said and got wrong."""

    def __init__(self, context):
        """Open an empty page and listen."""
        context.set_default_timeout(10_000)
        self.page = context.new_page()
        self.requests, self.said = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))

    def open(self, path, hash_=""):
        """Go to a page, and wait for what it shows."""
        self.page.goto(path.as_uri() + hash_)
        self.page.wait_for_selector("#latent" if hash_.startswith("#latent-") else TABLE)
        return self.page


def latents(page):
    """Latents of the drawn rows, in order."""
    return [int(text) for text in page.locator(TABLE).all_inner_texts()]
