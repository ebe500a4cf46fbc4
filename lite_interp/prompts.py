"""Prompt files: strict templates whose variables are filled with text that nobody trusts.

A prompt file is TOML with `name`, `description`, `begun_answer` and a list of `messages`, each
with a `role` and a `text`; `$variable` in it or in the begun answer stands for a value. A value is
kept apart from the template as a `Piece` of its own, so that an engine can tokenise it as plain
text: nothing in a corpus or an explanation can end the prompt's quoted part.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lite_interp.data import data_folder
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.ids import content_id

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Piece(NamedTuple):
    """A stretch of a message."""

    text: str
    """The text."""
    trusted: bool
    """Whether it comes from a prompt file; all else is tokenised as plain text."""


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    pieces: tuple[Piece, ...]
    """Its text, template and values in turn."""

    @property
    def text(self) -> str:
        """The whole text of the turn."""
        return "".join(piece.text for piece in self.pieces)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["system", "user", "assistant"]
    text: str


class Prompt(BaseModel):
    """One prompt file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Name: its file's name without the ending."""
    description: str
    """One sentence: what for, and what it was tried with."""
    messages: tuple[_Message, ...] = Field(min_length=1)
    """The turns of the chat, with `$variables`."""
    begun_answer: str = ""
    """Words put into the engine's mouth, with `$variables` too; it goes on from there."""
    answer_mark: str = ""
    """What the engine thinks aloud ends with: the answer is what stands behind the last of these in
    what it wrote. Empty = it answers at once, on one line."""
    max_tokens: int = Field(default=0, ge=0, le=4096)
    """Longest answer, tokens, thoughts included; 0 = as the explainer has it."""

    @property
    def id(self) -> str:
        """Content id: changes with any word of the prompt."""
        return content_id(self.content())

    def content(self) -> dict[str, Any]:
        """What the id is of, as the results file keeps it."""
        # Keys that came later do not count while they are empty: older ids hold.
        later = {name for name in ("answer_mark", "max_tokens") if not getattr(self, name)}
        return self.model_dump(exclude=later)

    @property
    def variables(self) -> frozenset[str]:
        """Names that `fill` must be given."""
        return frozenset(
            name
            for text in (*(message.text for message in self.messages), self.begun_answer)
            for _, name in _parse(text)
            if name is not None
        )

    def fill(self, **values: str) -> tuple[Message, ...]:
        """The messages with every variable filled, the begun answer as the last of them.

        Raises:
            KeyError: a value is missing, or for no variable.
        """
        if set(values) != self.variables:
            raise KeyError(f"{self.name} takes {sorted(self.variables)}, got {sorted(values)}")
        turns = [(message.role, message.text) for message in self.messages]
        if self.begun_answer:
            turns.append(("assistant", self.begun_answer))
        return tuple(Message(role, tuple(_pieces(text, values))) for role, text in turns)


def _parse(text: str) -> Iterator[tuple[str, str | None]]:
    """The template as (literal text, variable behind it) pairs; the last variable is None."""
    end = 0
    literal = ""
    for match in string.Template.pattern.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        name = match.group("named") or match.group("braced")
        if name:
            yield literal, name
            literal = ""
        elif match.group("escaped"):
            literal += "$"
        else:
            literal += match.group()
    yield literal + text[end:], None


def _pieces(text: str, values: Mapping[str, str]) -> Iterator[Piece]:
    for literal, name in _parse(text):
        if literal:
            yield Piece(literal, True)
        if name is not None:
            yield Piece(values[name], False)


def prompt_files() -> dict[str, Path]:
    """Every shipped prompt: `explain/small` → its file."""
    folder = data_folder("prompts")
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.glob("*/*.toml"))
    }


def load_prompt(name: str) -> Prompt:
    """A shipped prompt by name, e.g. `explain/small`, or a file by its path."""
    files = prompt_files()
    path = files.get(name) or (Path(name) if name.endswith(".toml") else None)
    if path is None or not path.is_file():
        raise UsageError(f"no prompt is named: {one_line(name)}", nearest(name, files))
    try:
        known = name if name in files else path.stem
        return Prompt.model_validate({"name": known, **_read_toml(path)})
    except (ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        first = (
            "{}: {}".format(".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"])
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise UsageError(
            f"not a prompt file: {one_line(path)}: {one_line(first)}",
            "docs/prompts.md lists the keys of a prompt file",
        ) from error


class Takes(NamedTuple):
    """Which variables a prompt may have."""

    known: frozenset[str]
    """Those that get a value."""
    needed: tuple[frozenset[str], ...]
    """Of each of these sets it has at least one."""


def choose_prompt(wanted: str, own: str, takes: Takes | None = None) -> Prompt:
    """The prompt that the user names, or else a module's own.

    Args:
        wanted: name or file; the folder of the module's own prompt may be left out; empty = the
            module's own.
        own: name of the module's own prompt.
        takes: variables of the module; None = those of its own prompt, every one of them.
    """
    beside = f"{own.partition('/')[0]}/{wanted}"
    prompt = load_prompt(beside if beside in prompt_files() else wanted or own)
    if takes is None:
        known = load_prompt(own).variables
        takes = Takes(known, tuple(frozenset([name]) for name in sorted(known)))
    unknown = sorted(prompt.variables - takes.known)
    missing = [some for some in takes.needed if not some & prompt.variables]
    if unknown or missing:
        what = "has an unknown variable" if unknown else "lacks a variable"
        named = unknown[0] if unknown else min(missing[0])
        raise UsageError(
            f"the prompt {one_line(prompt.name)} {what}: ${named}",
            "there is: " + ", ".join(f"${name}" for name in sorted(takes.known)),
        )
    return prompt


def _read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
