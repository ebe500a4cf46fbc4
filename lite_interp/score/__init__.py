"""Scorers: one module each, one entry here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.score.base import Item, Judgement, Scorer, Tools
from lite_interp.score.detection import DETECTION
from lite_interp.score.embedding import EMBEDDING
from lite_interp.score.fuzzing import FUZZING
from lite_interp.score.intervention import INTERVENTION
from lite_interp.score.intruder import INTRUDER
from lite_interp.score.simulation import SIMULATION
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

CHOICES = {
    ("fuzzing", "marks"): ("activating", "paper"),
    ("intervention", "direction"): ("decoder", "random"),
    ("simulation", "mode"): ("all_at_once", "token_by_token"),
}
"""(scorer, setting) → the values it may have, where not every one of its type will do."""


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
    wanted = [each for name in names for each in (SCORERS if name == ALL else (name,))]
    return [
        find_scorer(name, changed)
        for name in dict.fromkeys(wanted)
        for changed in settings.get(name, ({},))
    ]


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
            f"wrong value of {scorer.name}.{key}: {one_line(value)}", f"one of {', '.join(allowed)}"
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        raise UsageError(f"{scorer.name}.{key} is below 0: {value}")
    return value
