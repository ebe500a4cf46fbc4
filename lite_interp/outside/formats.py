"""Explanations that others wrote: files and folders to records, each with its place.

    JSON lines   plain, gzip or zstandard; Neuronpedia's `explanations/batch-<n>.jsonl` too
    table        comma, tab or semicolon between the fields, their names in the first line
    Delphi       a folder with one file for each latent

What a file is, its content says; what a line means, only the names in it. A line that says no
explanation of a latent is a `Flaw` with its place, never a guess. Files are hostile: a line, a
file and what is unpacked at a time have a greatest size.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lite_interp.errors import LiteInterpError, one_line
from lite_interp.outside.lines import MAX_LINE_BYTES, NoTextError, decoded, read_lines
from lite_interp.render import one_row

EXPLAINER = "import"
"""Explainer of explanations that were not made here."""

LATENT_KEYS = ("latent", "index", "feature")
"""What the index of a latent is called; all that are there must agree."""
TEXT_KEYS = ("explanation", "description", "text")
"""What the explanation is called; the first that is there counts."""

MAX_CHARACTERS = 2000
"""Longest explanation."""
MAX_NAME_CHARACTERS = 200
"""Longest name of a source or coder."""

UNREADABLE = "Explanation could not be parsed."
"""What Delphi stores in place of an explanation if it finds none in an answer."""

_DELPHI_FILE = re.compile(r"(.*)_(?:latent|feature)([0-9]{1,18})\.txt", re.DOTALL)
_INDEX = re.compile(r"[0-9]{1,18}")
_NUL_MARK = "\udc00"
"""A NUL in a table, which `csv` cannot read; no byte becomes this."""


class Record(NamedTuple):
    """One explanation of one latent by someone else."""

    place: str
    """File and line from 1, `people.csv:4`; a file of Delphi alone."""
    latent: int
    """Index of the latent, 0 or above; nobody checked yet that the coder has it."""
    text: str
    """The explanation on one line, without control characters."""
    raw: str
    """The explanation as it stands in the file."""
    source: str
    """Who wrote it."""
    coder: str
    """The coder, hookpoint or source id that the line names; empty if none."""
    model: str
    """Neuronpedia's name of the subject; empty elsewhere."""

    @property
    def coder_name(self) -> str:
        """The coder, with its subject if the line names one."""
        return f"{self.model}/{self.coder}" if self.model else self.coder


class Flaw(NamedTuple):
    """A line that cannot be imported."""

    place: str
    """File and line, or file."""
    what: str
    """What is wrong with it."""


Found = Iterator[Record | Flaw]


class _Bad(ValueError):
    """What is wrong with a line."""


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
    name, source = _name(path), _source_of(path)
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            row = _json(line)
            if not isinstance(row, dict):
                raise _Bad("not a JSON object")
            yield _record(place, row, source)
        except _Bad as bad:
            yield Flaw(place, str(bad))


def _json(data: bytes) -> Any:
    try:
        return json.loads(decoded(data))
    except NoTextError as bad:
        raise _Bad(str(bad)) from None
    except (ValueError, RecursionError) as error:
        raise _Bad(f"broken JSON: {one_line(error)}") from None


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
    name, source = _name(path), _source_of(path)
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
                row = dict(zip(header, fields, strict=True))
                yield _record(f"{name}:{number}", row, source)
            except _Bad as bad:
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
        yield line.decode("utf-8", "surrogateescape").replace("\x00", _NUL_MARK)


def _read_delphi(path: Path) -> Found:
    """One file for each latent, `layers.9_latent12.txt`, that holds a JSON text."""
    source = _source_of(path.absolute().parent if path.name == "explanations" else path)
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
        place = _name(path / name)
        try:
            raw, text = _explanation(_delphi_text(path / name))
            coder = _tidy_name(hookpoint.lstrip("."), "hookpoint")
            yield Record(place, latent, text, raw, source, coder, "")
        except _Bad as bad:
            yield Flaw(place, str(bad))
    for name in names:
        if not matches[name]:
            yield Flaw(_name(path / name), "its name ends in no latent")


def _delphi_text(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(MAX_LINE_BYTES + 1)
    if len(data) > MAX_LINE_BYTES:
        raise _Bad(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    text = _json(data)
    if isinstance(text, str) and text.strip() == UNREADABLE:
        raise _Bad("Delphi found no explanation in the answer")
    return text


FORMATS: dict[str, Format] = {
    "Delphi": Format(lambda path, head: path.is_dir(), _read_delphi),
    "JSON lines": Format(lambda path, head: head.lstrip().startswith("{"), _read_json_lines),
    "table": Format(lambda path, head: bool(_delimiter(head)), _read_table),
}
"""Every kind of file, the first that fits counts."""


def _record(place: str, row: Mapping[str, Any], source: str) -> Record:
    """What a line says; `source` if it does not say who."""
    latent = _latent(row)
    key = next((key for key in TEXT_KEYS if key in row), None)
    if key is None:
        raise _Bad("no explanation")
    raw, text = _explanation(row[key])
    if "modelId" in row and "layer" in row:
        return Record(place, latent, text, raw, *_neuronpedia(row, source))
    who = _tidy_name(row.get("source"), "source") or source
    return Record(place, latent, text, raw, who, _tidy_name(row.get("coder"), "coder"), "")


def _neuronpedia(row: Mapping[str, Any], source: str) -> tuple[str, str, str]:
    """Source, coder and model: two ways to explain with one model are two sources."""
    model, layer = (_tidy_name(row[key], key) for key in ("modelId", "layer"))
    if not model or not layer:
        raise _Bad("no modelId or layer")
    who, how = (
        next((name for name in (_tidy_name(row.get(key), key) for key in keys) if name), "")
        for keys in (("source", "explanationModelName", "authorId"), ("typeName",))
    )
    return "/".join(filter(None, (who, how))) or source, layer, model


def _latent(row: Mapping[str, Any]) -> int:
    given = [row[key] for key in LATENT_KEYS if row.get(key) not in (None, "")]
    if not given:
        raise _Bad("no latent")
    found = [_index(value) for value in given]
    if len(set(found)) > 1:
        raise _Bad("two latents: " + ", ".join(map(str, found)))
    return found[0]


def _index(value: Any) -> int:
    if isinstance(value, str) and _INDEX.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    raise _Bad(f"not the index of a latent: {one_line(value)[:40]}")


def _explanation(value: Any) -> tuple[str, str]:
    """The explanation as it is, and on one line."""
    raw = _text(value, "explanation", MAX_CHARACTERS)
    if not any(character.isprintable() and not character.isspace() for character in raw):
        raise _Bad("empty explanation")
    return raw, one_row(raw.strip()).strip()


def _tidy_name(value: Any, what: str) -> str:
    """A name on one line; empty if there is none."""
    return "" if value is None else one_row(_text(value, what, MAX_NAME_CHARACTERS).strip())


def _text(value: Any, what: str, longest: int) -> str:
    if value is None:
        raise _Bad(f"no {what}")
    if not isinstance(value, str):
        raise _Bad(f"the {what} is no text: {type(value).__name__}")
    if "\x00" in value or _NUL_MARK in value:
        raise _Bad("binary")
    try:
        # JSON may hold half of a surrogate pair, which no UTF-8 can.
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _Bad("broken UTF-8") from None
    if len(value) > longest:
        raise _Bad(f"{what} of {len(value):,} characters, {longest:,} are the most")
    return value


def _name(path: Path | str) -> str:
    """A path as valid Unicode; bytes of the file system that are none are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _source_of(path: Path) -> str:
    """Who wrote it if no line says so: the file or folder."""
    return one_row(_name(path.absolute().name))[:MAX_NAME_CHARACTERS]
