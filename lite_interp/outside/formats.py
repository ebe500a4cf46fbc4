"""Explanations that others wrote: files and folders to records, each with its place.

    JSON lines   plain, gzip or zstandard; Neuronpedia's `explanations/batch-<n>.jsonl` too
    table        comma, tab or semicolon between the fields, their names in the first line
    Delphi       a folder with one file for each latent

What a file is, its content says; what a line means, only the names in it. A line that says no
explanation of a latent is a `Flaw` with its place, never a guess; one of our own exports that says
why there is none is `Absent`. Files are hostile: a line, a file and what is unpacked at a time
have a greatest size.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lite_interp.errors import LiteInterpError, one_line
from lite_interp.outside.cells import plain_cell
from lite_interp.outside.fields import (
    LATENT_KEYS,
    NUL_MARK,
    TEXT_KEYS,
    Absent,
    BadLineError,
    Flaw,
    Record,
    file_name,
    read_explanation,
    read_line,
    source_of,
    tidy_name,
)
from lite_interp.outside.lines import MAX_LINE_BYTES, NoTextError, decoded, read_lines

EXPLAINER = "import"
"""Explainer of explanations that were not made here."""

UNREADABLE = "Explanation could not be parsed."
"""What Delphi stores in place of an explanation if it finds none in an answer."""

_DELPHI_FILE = re.compile(r"(.*)_(?:latent|feature)([0-9]{1,18})\.txt", re.DOTALL)


Found = Iterator[Record | Flaw | Absent]


class Format(NamedTuple):
    """One kind of file or folder."""

    is_one: Callable[[Path, str], bool]
    """Whether a path is of this kind, from the path and its first line that is not blank (of a
    folder: empty)."""
    read: Callable[[Path], Found]
    """What is in it."""


def read_outside(path: Path) -> Found:
    """The explanations of a file or folder, in its order, and what cannot be one.

    Raises:
        LiteInterpError: not there, of no known kind, damaged, or so large or so broken that
            nobody can tell where the next line begins.
    """
    try:
        head = "" if path.is_dir() else _head(path)
        kind = next((kind for kind in FORMATS.values() if kind.is_one(path, head)), None)
        if kind is None:
            raise LiteInterpError(
                f"neither JSON lines nor a table with named columns: {one_line(path)}",
                "JSON lines are objects, and a table's first line names its columns: "
                "`latent`, `explanation`, perhaps `source` and `coder`",
            )
        yield from kind.read(path)
    except OSError as error:
        raise LiteInterpError(
            f"cannot be read: {one_line(path)}: {one_line(error.strerror or error)}"
        ) from None


def _head(path: Path) -> str:
    """The first line that is not blank."""
    if not path.is_file():
        raise LiteInterpError(f"no such file or folder: {one_line(path)}")
    line = next((line for line in read_lines(path) if line.strip()), b"")
    try:
        return decoded(line)
    except NoTextError as bad:
        raise LiteInterpError(f"no text: {one_line(path)}: {bad}") from None


def _read_json_lines(path: Path) -> Found:
    name, source = file_name(path), source_of(path)
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            row = _json(line)
            if not isinstance(row, dict):
                raise BadLineError("not a JSON object")
            yield read_line(place, row, source)
        except BadLineError as bad:
            yield Flaw(place, str(bad))


def _json(data: bytes) -> Any:
    try:
        return json.loads(decoded(data))
    except NoTextError as bad:
        raise BadLineError(str(bad)) from None
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"broken JSON: {one_line(error)}") from None


def _delimiter(head: str) -> str:
    """What parts the fields of a table: with it, the first line names latent and explanation."""
    for delimiter in ",\t;":
        try:
            names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if any(key in names for key in LATENT_KEYS) and any(key in names for key in TEXT_KEYS):
            return delimiter
    return ""


def _read_table(path: Path) -> Found:
    name, source = file_name(path), source_of(path)
    rows = csv.reader(_table_lines(path), delimiter=_delimiter(_head(path)), strict=True)
    header: list[str] = []
    while True:
        number = rows.line_num + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if rows.line_num != number:
                # The lines between may have been read as the inside of one field.
                raise LiteInterpError(
                    f"a quote that does not end: {one_line(name)}: lines {number} to "
                    f"{rows.line_num}: {one_line(error)}",
                    'a field with a quote in it is quoted, and the quote doubled: "so ""said"""',
                ) from None
            yield Flaw(f"{name}:{number}", f"broken table: {one_line(error)}")
            continue
        if not any(field.strip() for field in fields):
            continue
        if not header:
            header = _header(name, fields)
        elif len(fields) != len(header):
            what = f"fields where the first line names {len(header)}"
            yield Flaw(f"{name}:{number}", f"{len(fields)} {what}")
        else:
            try:
                row = dict(zip(header, map(plain_cell, fields), strict=True))
                yield read_line(f"{name}:{number}", row, source)
            except BadLineError as bad:
                yield Flaw(f"{name}:{number}", str(bad))


def _header(name: str, fields: Sequence[str]) -> list[str]:
    header = [field.strip() for field in fields]
    twice = next((each for each in header if each and header.count(each) > 1), "")
    if twice:
        raise LiteInterpError(f"two columns have one name: {one_line(name)}: {one_line(twice)}")
    return header


def _table_lines(path: Path) -> Iterator[str]:
    """Lines for `csv`, which cannot go on after an error: broken bytes are found in their field."""
    for line in read_lines(path):
        yield line.decode("utf-8", "surrogateescape").replace("\x00", NUL_MARK)


def _read_delphi(path: Path) -> Found:
    """One file for each latent, `layers.9_latent12.txt`, that holds a JSON text."""
    source = source_of(path.absolute().parent if path.name == "explanations" else path)
    names = sorted(
        each.name
        for each in path.iterdir()
        if each.suffix == ".txt" and not each.name.startswith(".") and each.is_file()
    )
    matches = {name: _DELPHI_FILE.fullmatch(name) for name in names}
    if not any(matches.values()):
        inside = (path / "explanations").is_dir()
        raise LiteInterpError(
            f"no explanation of Delphi in this folder: {one_line(path)}",
            "name the folder `explanations` in it" if inside else "they end in _latent<number>.txt",
        )
    ours = [(match[1], int(match[2]), name) for name, match in matches.items() if match]
    for hookpoint, latent, name in sorted(ours):
        place = file_name(path / name)
        try:
            raw, text = read_explanation(_delphi_text(path / name))
            coder = tidy_name(hookpoint.lstrip("."), "hookpoint")
            yield Record(place, latent, text, raw, source, coder, "")
        except BadLineError as bad:
            yield Flaw(place, str(bad))
    for name in names:
        if not matches[name]:
            yield Flaw(file_name(path / name), "its name ends in no latent")


def _delphi_text(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(MAX_LINE_BYTES + 1)
    if len(data) > MAX_LINE_BYTES:
        raise BadLineError(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    text = _json(data)
    if isinstance(text, str) and text.strip() == UNREADABLE:
        raise BadLineError("Delphi found no explanation in the answer")
    return text


FORMATS: dict[str, Format] = {
    "Delphi": Format(lambda path, head: path.is_dir(), _read_delphi),
    "JSON lines": Format(lambda path, head: head.lstrip().startswith("{"), _read_json_lines),
    "table": Format(lambda path, head: bool(_delimiter(head)), _read_table),
}
"""Every kind of file, the first that fits counts."""
