"""Scorers: one module each, one entry here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.choices import changed_settings
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

CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "fuzzing": {"marks": MARKS},
    "intervention": {"direction": ("decoder", "random")},
    "simulation": {"mode": MODES, "highest": HIGHEST},
}
"""Scorer → setting → the values it may have, where not every one of its type will do."""

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "detection": {"list": (0, 20)},
    "fuzzing": {"threshold": (0, 1)},
    "intervention": {
        "kl": (1e-4, 100),
        "n_prompts": (1, 1000),
        "n_tuning": (1, 1000),
        "n_continuations": (1, 100),
        "n_tokens": (1, 1000),
        "temperature": (0, 10),
    },
    "simulation": {"n_windows": (2, 10_000)},
    "intruder": {"n_questions": (1, 10_000), "n_choices": (2, 9)},
}
"""Scorer → setting → least and greatest number it may be."""


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
    wanted = dict(settings or {})
    changed = changed_settings(
        "scorer", name, scorer.settings, wanted, RANGES.get(name, {}), CHOICES.get(name)
    )
    prompt = LIST_PROMPT if wanted.get("list") else scorer.prompt
    return dataclasses.replace(scorer, settings=changed, prompt=prompt)
