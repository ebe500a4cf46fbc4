"""Scorers: one module each, one entry here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.score.base import Item, Judgement, Scorer, Tools
from lite_interp.score.detection import DETECTION
from lite_interp.score.embedding import EMBEDDING
from lite_interp.score.fuzzing import FUZZING, MARKS
from lite_interp.score.intervention import INTERVENTION
from lite_interp.score.intruder import INTRUDER
from lite_interp.score.simulation import HIGHEST, MODES, SIMULATION
from lite_interp.score.surprisal import SURPRISAL

__all__ = ["SCORERS", "Item", "Judgement", "Scorer", "Tools", "choose_scorers", "find_scorer"]

SCORERS = {
    scorer.name: scorer
    for scorer in (
        DETECTION, FUZZING, SURPRISAL, EMBEDDING, INTERVENTION, SIMULATION, INTRUDER,
    )
}  # fmt: skip

LIST_PROMPT = "score/detection_list"
"""Prompt of detection when it asks about several windows at once."""

CHOICES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("fuzzing", "marks"): MARKS,
    ("intervention", "direction"): ("decoder", "random"),
    ("simulation", "mode"): MODES,
    ("simulation", "highest"): HIGHEST,
}
"""(scorer, setting) → the values it may have, where not every one of its type will do."""

RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("detection", "list"): (0, 20),
    ("fuzzing", "threshold"): (0, 1),
    ("intervention", "kl"): (1e-4, 100),
    ("intervention", "n_prompts"): (1, 1000),
    ("intervention", "n_tuning"): (1, 1000),
    ("intervention", "n_continuations"): (1, 100),
    ("intervention", "n_tokens"): (1, 1000),
    ("intervention", "temperature"): (0, 10),
    ("simulation", "n_windows"): (2, 10_000),
    ("intruder", "n_questions"): (1, 10_000),
    ("intruder", "n_choices"): (2, 9),
}
"""(scorer, setting) → least and greatest number it may be."""


ALL = "all"
"""Name that stands for every scorer."""


def choose_scorers(
    names: Sequence[str], settings: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Scorer]:
    """Scorers by name, once for each set of settings that is given for them.

    Args:
        names: names in SCORERS, or `all`.
        settings: name → sets of settings that differ from the scorer's own; one scorer may be
            wanted in several ways.
    """
    for name in settings:
        find_scorer(name)
    wanted = [each for name in names for each in (SCORERS if name == ALL else (name,))]
    found = [
        find_scorer(name, changed)
        for name in dict.fromkeys(wanted)
        for changed in settings.get(name, ({},))
    ]
    return [scorer for number, scorer in enumerate(found) if scorer not in found[:number]]


def find_scorer(name: str, settings: Mapping[str, Any] | None = None) -> Scorer:
    """A scorer by name, with some of its settings changed.

    Raises:
        UsageError: no scorer or no setting has such a name, or the value is of another type.
    """
    if name not in SCORERS:
        raise UsageError(f"no scorer is named: {one_line(name)}", nearest(name, [*SCORERS, ALL]))
    scorer = SCORERS[name]
    changed = {key: _like(scorer, key, value) for key, value in (settings or {}).items()}
    prompt = LIST_PROMPT if changed.get("list") else scorer.prompt
    return dataclasses.replace(scorer, settings={**scorer.settings, **changed}, prompt=prompt)


def _like(scorer: Scorer, key: str, value: Any) -> Any:
    """A value of a setting, refused unless it is of the type that the default has."""
    if key not in scorer.settings:
        known = nearest(key, scorer.settings)
        raise UsageError(f"the scorer {scorer.name} has no setting: {one_line(key)}", known)
    own = scorer.settings[key]
    if isinstance(own, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(own):
        raise UsageError(
            f"wrong value of {scorer.name}.{key}: {one_line(value)}", f"one like {own!r}"
        )
    allowed = CHOICES.get((scorer.name, key))
    if allowed and value not in allowed:
        raise UsageError(
            f"wrong value of {scorer.name}.{key}: {one_line(value)}",
            f"one of {', '.join(map(str, allowed))}",
        )
    low, high = RANGES.get((scorer.name, key), (0, math.inf))
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise UsageError(
            f"{scorer.name}.{key} is out of range: {value}",
            f"at least {low:g}" + (f", at most {high:g}" if high < math.inf else ""),
        )
    return value
