"""What a line of others says: an explanation of a latent, or why it cannot be one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lite_interp.errors import one_line
from lite_interp.render import one_row

LATENT_KEYS = ("latent", "index", "feature")
"""What the index of a latent is called; all that are there must agree."""
TEXT_KEYS = ("explanation", "description", "text")
"""What the explanation is called; the first that is there counts."""

MAX_CHARACTERS = 2000
"""Longest explanation."""
MAX_NAME_CHARACTERS = 200
"""Longest name of a source or coder."""

_INDEX = re.compile(r"[0-9]{1,18}")
NUL_MARK = "\udc00"
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


class Absent(NamedTuple):
    """A line that says why a latent has no explanation, as our own exports do."""

    place: str
    """File and line."""
    why: str
    """The reason."""


class BadLineError(ValueError):
    """What is wrong with a line."""


def read_line(place: str, row: Mapping[str, Any], source: str) -> Record | Absent:
    """What a line says; `source` if it does not say who."""
    latent = _latent(row)
    key = next((key for key in TEXT_KEYS if key in row), None)
    if key is None:
        raise BadLineError("no explanation")
    if row[key] in (None, "") and isinstance(row.get("failure"), str) and row["failure"]:
        return Absent(place, one_line(row["failure"])[:MAX_NAME_CHARACTERS])
    raw, text = read_explanation(row[key])
    if "modelId" in row and "layer" in row:
        return Record(place, latent, text, raw, *_neuronpedia(row, source))
    who = tidy_name(row.get("source"), "source") or source
    return Record(place, latent, text, raw, who, tidy_name(row.get("coder"), "coder"), "")


def _neuronpedia(row: Mapping[str, Any], source: str) -> tuple[str, str, str]:
    """Source, coder and model: two ways to explain with one model are two sources."""
    model, layer = (tidy_name(row[key], key) for key in ("modelId", "layer"))
    if not model or not layer:
        raise BadLineError("no modelId or layer")
    who, how = (
        next((name for name in (tidy_name(row.get(key), key) for key in keys) if name), "")
        for keys in (("source", "explanationModelName", "authorId"), ("typeName",))
    )
    return "/".join(filter(None, (who, how))) or source, layer, model


def _latent(row: Mapping[str, Any]) -> int:
    given = [row[key] for key in LATENT_KEYS if row.get(key) not in (None, "")]
    if not given:
        raise BadLineError("no latent")
    found = [_index(value) for value in given]
    if len(set(found)) > 1:
        raise BadLineError("two latents: " + ", ".join(map(str, found)))
    return found[0]


def _index(value: Any) -> int:
    if isinstance(value, str) and _INDEX.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    raise BadLineError(f"not the index of a latent: {one_line(value)[:40]}")


def read_explanation(value: Any) -> tuple[str, str]:
    """The explanation as it is, and on one line."""
    raw = _text(value, "explanation", MAX_CHARACTERS)
    if not any(character.isprintable() and not character.isspace() for character in raw):
        raise BadLineError("empty explanation")
    return raw, one_row(raw.strip()).strip()


def tidy_name(value: Any, what: str) -> str:
    """A name on one line; empty if there is none."""
    return "" if value is None else one_row(_text(value, what, MAX_NAME_CHARACTERS).strip())


def _text(value: Any, what: str, longest: int) -> str:
    if value is None:
        raise BadLineError(f"no {what}")
    if not isinstance(value, str):
        raise BadLineError(f"the {what} is no text: {type(value).__name__}")
    if "\x00" in value or NUL_MARK in value:
        raise BadLineError("binary")
    try:
        # JSON may hold half of a surrogate pair, which no UTF-8 can.
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadLineError("broken UTF-8") from None
    if len(value) > longest:
        raise BadLineError(f"{what} of {len(value):,} characters, {longest:,} are the most")
    return value


def file_name(path: Path | str) -> str:
    """A path as valid Unicode; bytes of the file system that are none are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def source_of(path: Path) -> str:
    """Who wrote it if no line says so: the file or folder."""
    return one_row(file_name(path.absolute().name))[:MAX_NAME_CHARACTERS]
