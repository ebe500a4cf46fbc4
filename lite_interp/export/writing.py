"""How exports reach the disk: under their name only when they are whole, the same bytes each time.

Texts in a results file come from corpora, models and other people. In JSON what could not be text
elsewhere (NUL, half of a surrogate pair) becomes U+FFFD, and what could steer a terminal or turn
the order of letters is written as an escape, which any reader of JSON undoes.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lite_interp.errors import LiteInterpError, UsageError, one_line

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
_STEERING = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def tidy_text(text: str) -> str:
    """A text that any reader can take: no NUL, no half of a surrogate pair."""
    return _NOT_TEXT.sub("\ufffd", text)


def tidy(value: Any) -> Any:
    """Plain data with such texts alone, and None for what is no finite number."""
    if isinstance(value, str):
        return tidy_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {tidy_text(str(key)): tidy(inner) for key, inner in value.items()}
    return [tidy(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def json_text(value: Any) -> str:
    """JSON on one line: sorted keys, no spaces, harmless to print."""
    text = json.dumps(
        tidy(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_line(value: Any) -> bytes:
    """The same with its line break, as bytes."""
    return (json_text(value) + "\n").encode("utf-8")


@contextmanager
def gzip_file(path: Path) -> Iterator[gzip.GzipFile]:
    """A gzip file whose bytes follow from its contents: no name and no time in its head."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as file,
    ):
        yield file


def gzipped(data: bytes) -> bytes:
    """Bytes as a gzip file without a time."""
    return gzip.compress(data, 6, mtime=0)


@contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """A path beside `out` for a file or folder that gets this name once it is whole.

    Raises:
        UsageError: there is something of this name and `force` is not wanted; or it is a folder
            that holds what the new one would not.
        LiteInterpError: there is no folder to write to, or it cannot be written.
    """
    refuse_place(out, force)
    aside: Path | None = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=".lite-interp-", dir=out.parent))
        new = aside / "new"
        yield new
        _put(new, out, aside)
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise LiteInterpError(f"cannot be written: {one_line(out)}: {reason}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def refuse_place(out: Path, force: bool) -> None:
    """Refuse at once a place that could not be written to after all the work."""
    if not out.absolute().parent.is_dir():
        raise LiteInterpError(f"no such folder: {one_line(out.parent)}", "make it first")
    if os.path.lexists(out) and not force:
        raise UsageError(f"it is there already: {one_line(out)}", "--force writes it anew")
    if out.is_symlink() or (out.exists() and not (out.is_file() or out.is_dir())):
        raise UsageError(f"neither a file nor a folder: {one_line(out)}", "name another place")


def _put(new: Path, out: Path, aside: Path) -> None:
    """Give what was written its name, in the place of what was there."""
    if out.exists():
        if out.is_dir() != new.is_dir():
            kind = "folder" if out.is_dir() else "file"
            raise UsageError(f"a {kind} is there already: {one_line(out)}", "name another place")
        if out.is_dir():
            # A wrong -o must not cost anybody a folder of something else.
            others = sorted(set(os.listdir(out)) - set(os.listdir(new)))
            if others:
                raise UsageError(
                    f"the folder holds something else: {one_line(out / others[0])}",
                    "name another place, or empty it yourself",
                )
            _swap(new, out, aside / "old")
            return
    if new.is_dir():
        new.rename(out)
        return
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(new, out)


def _swap(new: Path, out: Path, old: Path) -> None:
    """Put a folder in the place of another, or leave that where it was."""
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise


def size_of(path: Path) -> tuple[int, int]:
    """(files, bytes) of a file, or of all in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return len(files), sum(each.stat().st_size for each in files)
