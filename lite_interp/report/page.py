"""One self-contained page: a shell, one style sheet, one script, and the data as JSON.

The page loads nothing and runs nothing but its own script: a policy in its head names the hashes
of script and style sheet and forbids everything else. Data stand in blocks that no browser runs:
one for the overview, plain, and one for each latent, packed, unpacked when the latent is
opened.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from lite_interp.data import data_folder
from lite_interp.errors import UsageError, one_line

PARTS = ("nodes.js", "plots.js", "table.js", "overview.js", "windows.js", "latent.js", "page.js")
"""What every page's script is made of, in this order; a last part says where records come from."""
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
"""Characters that could end a block of data, or begin something in it."""


def embedded_json(value: Any) -> str:
    """JSON that may stand in a page: no markup can begin or end in it.

    Raises:
        ValueError: a number in it is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(ESCAPES)


def packed_json(value: Any) -> str:
    """JSON packed with gzip, as base64: half the size; the same value, the same text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def policy(script: str, style: str, *more: str) -> str:
    """A content security policy under which this script and this style sheet are all there is.

    Args:
        script: the script.
        style: the style sheet.
        more: what is allowed, or forbidden, beside these.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            *more,
        ]
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def page_script(*last: str) -> str:
    """The script of a page: its parts in one function, so that nothing of it can be reached."""
    folder = data_folder("report")
    texts = [(folder / name).read_text(encoding="utf-8") for name in (*PARTS, *last)]
    return "\n".join(['"use strict";', "(() => {", *texts, "})();"])


def page_style(*more: str) -> str:
    """The style sheet of every page, and others behind it."""
    folder = data_folder("report")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("report.css", *more))


def page_shell() -> Template:
    """The markup of every page."""
    loader = FileSystemLoader(data_folder("report"))
    settings = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return settings.get_template("report.html")


def render_page(title: str, overview: Any, latents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The page piece by piece, so that the data are never in memory together.

    Args:
        title: what the browser calls it.
        overview: an `overview_record`.
        latents: `latent_record`s, each once.
    """
    script, style = page_script("embedded.js"), page_style()
    return page_shell().generate(
        title=title,
        policy=policy(script, style),
        script=script,
        style=style,
        overview=embedded_json(overview),
        latents=((record["latent"], packed_json(record)) for record in latents),
    )


def refuse_output(path: Path, results: Path, force: bool) -> None:
    """Refuse a place for the page before an hour of work, not after.

    Raises:
        UsageError: it is the results file or a folder, its folder is not there, or there is a file
            and `force` was not said.
    """
    if path.is_dir():
        raise UsageError(f"a folder, not a file: {one_line(path)}", "name a file: -o report.html")
    if not path.parent.is_dir():
        raise UsageError(f"no such folder: {one_line(path.parent)}", "make it first")
    if path.exists():
        if path.samefile(results):
            raise UsageError(f"that is the results file: {one_line(path)}", "name another file")
        if not force:
            raise UsageError(f"there is such a file: {one_line(path)}", "--force replaces it")


def write_text(path: Path, pieces: Iterable[str]) -> int:
    """Write a file whole or not at all; returns its bytes."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(pieces)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            n_bytes = os.path.getsize(name)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot be written: {one_line(path)}: {one_line(error.strerror or error)}",
            "is there room, and may you write there?",
        ) from error
    return n_bytes
