"""A study from its file, or from options: what cannot be is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.study.presets import with_preset
from lite_interp.study.sections import Part, Study

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_study(path: Path) -> Study:
    """A study file with its paths made absolute.

    Raises:
        UsageError: no such file, no TOML, an unknown key, a wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"no such study file: {one_line(path)}", "the README shows a whole one"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"not a study file: {one_line(path)}: {one_line(error)}") from None
    return _absolute(parse_study(table, str(path)), path.absolute().parent)


def parse_study(table: dict[str, Any], origin: str) -> Study:
    """A study from its tables; `origin` names them in an error."""
    try:
        return Study.model_validate(_tuples(with_preset(table, origin)))
    except ValidationError as error:
        # A key with a typo is missing, too, under its right name: the typo is what helps.
        first = min(
            error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden"
        )
        steps = [str(step) for step in first["loc"]]
        place = ".".join(steps)
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = nearest(steps[-1], _keys(steps[0] if len(steps) > 1 else ""))
        message = "unknown key" if hint else one_line(first["msg"]).lower()
        raise UsageError(f"{one_line(origin)}: {message}: {one_line(place)}", hint) from None


def parse_section(kind: type[Part], **values: Any) -> Part:
    """One section from options of the command line."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise UsageError(f"wrong option: {place}: {one_line(first['msg']).lower()}") from None


def parse_value(option: str, text: str) -> tuple[str, Any]:
    """A setting given as `key=value`, the value as in a study file; a bare word is a text."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key.isidentifier():
        raise UsageError(f"{option} wants key=value: {one_line(text)}", "e.g. n_batch=1024")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _keys(section: str) -> list[str]:
    fields = Study.model_fields
    if section:
        return list(fields[section].annotation.model_fields)  # type: ignore[union-attr]
    return list(fields)


def _tuples(value: Any) -> Any:
    """TOML lists as tuples, and whole numbers where a float is wanted: strict parsing wants it."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _absolute(study: Study, folder: Path) -> Study:
    def resolve(text: str) -> str:
        there = folder / Path(text).expanduser()
        return str(there) if text and there.exists() else text

    def resolve_prompt(name: str) -> str:
        return resolve(name) if name.endswith(".toml") else name

    def update(section: Any, **values: Any) -> Any:
        return section.model_copy(update=values)

    return study.model_copy(
        update={
            "subject": update(study.subject, model=resolve(study.subject.model)),
            "coder": update(study.coder, path=resolve(study.coder.path)),
            "corpus": update(study.corpus, paths=tuple(map(resolve, study.corpus.paths))),
            "engine": update(study.engine, model=resolve(study.engine.model)),
            "examples": update(study.examples, embedder=resolve(study.examples.embedder)),
            "explain": update(study.explain, prompt=resolve_prompt(study.explain.prompt)),
            "score": update(
                study.score,
                embedder=resolve(study.score.embedder),
                prompt=resolve_prompt(study.score.prompt),
            ),
        }
    )
