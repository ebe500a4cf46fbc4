"""A results file small enough to send: all that was found, without what it was computed from."""

from __future__ import annotations

import getpass
import json
import platform
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lite_interp.datasette_metadata import make_metadata
from lite_interp.db.anonymous import Hider
from lite_interp.db.file import read_results
from lite_interp.db.shared_views import add_views
from lite_interp.db.sharing import SHARED, LeftOut, copy_tables, left_out, shared_file
from lite_interp.errors import UsageError, one_line
from lite_interp.export.writing import refuse_place, staged
from lite_interp.terminal import duration

if TYPE_CHECKING:
    from lite_interp.loading import Reporter


class Shared(NamedTuple):
    """What was written, and what was not."""

    path: str
    """The copy."""
    metadata: str
    """What Datasette is told about it."""
    anonymous: bool
    """Whether places and names were taken out."""
    bytes_before: int
    """Size of the original."""
    bytes_after: int
    """Size of the copy."""
    seconds: float
    """How long it took."""
    left_out: tuple[LeftOut, ...]
    """What is not in it."""


def share(
    results: Path, out: Path, tell: Reporter, *, anonymize: bool = False, force: bool = False
) -> Shared:
    """Write a copy without firings, tokens and indices, and beside it what Datasette is told.

    Both are written whole or not at all; the original is only read, and may be written meanwhile.

    Args:
        results: the results file.
        out: the copy.
        tell: who is told.
        anonymize: take out places, hosts, users and raters' names.
        force: replace files that are there.

    Raises:
        UsageError: a file is there already, or it is the results file itself.
        LiteInterpError: a file cannot be read or written.
    """
    metadata = out.with_suffix(".metadata.json")
    with read_results(results):
        _refuse(results, (out, metadata), force)
        started = time.monotonic()
        with staged(out, force) as new, staged(metadata, force) as beside:
            with shared_file(results, new) as db:
                hider = Hider(db, "other", own_names()) if anonymize else None
                for _ in tell.track(copy_tables(db, hider), len(SHARED), "copying"):
                    pass
                behind = left_out(db)
                told = make_metadata(db, out.stem, add_views(db))
            beside.write_text(
                json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
    done = Shared(
        str(out),
        str(metadata),
        anonymize,
        results.stat().st_size,
        out.stat().st_size,
        time.monotonic() - started,
        tuple(behind),
    )
    for line in lines(done):
        tell.say(line)
    return done


def _refuse(results: Path, places: tuple[Path, ...], force: bool) -> None:
    for place in places:
        if place.exists() and place.samefile(results):
            raise UsageError(f"that is the results file: {one_line(place)}", "name another file")
        refuse_place(place, force)
        if place.is_dir():
            raise UsageError(f"a folder, not a file: {one_line(place)}", "name a file: -o small.db")


def own_names() -> list[str]:
    """What this machine and its user are called, as far as that is known."""
    found = [platform.node(), platform.node().partition(".")[0]]
    for name in (getpass.getuser, lambda: Path.home().name):
        try:
            found.append(name())
        except (OSError, KeyError, RuntimeError):
            continue
    return [name for name in found if name]


def lines(done: Shared) -> Iterator[str]:
    """What became of it, for people."""
    for each in done.left_out:
        size = f", {_megabytes(each.n_bytes)}" if each.n_bytes else ""
        yield f"left out: {each.what}: {each.n_rows:,} rows{size}"
    if done.anonymous:
        yield (
            "taken out: paths, hosts, users, raters' names, arguments and machines of commands; "
            "texts of windows, explanations and prompts are as they were: read them before you send"
        )
    yield (
        f"{done.path}: {_megabytes(done.bytes_before)} → {_megabytes(done.bytes_after)} "
        f"in {duration(done.seconds)}"
    )
    places = shlex.quote(done.path), shlex.quote(done.metadata)
    yield "to look at it: datasette -i {} -m {}".format(*places)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def record(done: Shared) -> dict[str, object]:
    """The same for machines."""
    behind = [each._asdict() for each in done.left_out]
    return {**done._asdict(), "left_out": behind, "seconds": round(done.seconds, 3)}
