"""What the scorers said in a file, for comparing: each thing is read once, when it is asked for."""

from __future__ import annotations

import json
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp.compare.arms import Arm
from lite_interp.db import studies, trials
from lite_interp.db.trials import Group, TrialRow
from lite_interp.ids import content_id
from lite_interp.records import ExampleSet, Explanation
from lite_interp.score import SCORERS
from lite_interp.ways import Way

ALONE = ("detection", "surprisal", "embedding", "simulation")
"""Scorers that ask about each window by itself: what else is in the example set changes nothing."""


class Side(NamedTuple):
    """What one arm has on one latent."""

    letter: str
    """`A` or `B`."""
    cache_id: str
    """The cache."""
    latent: int
    """The latent."""
    explanation: Explanation | None
    """The explanation or failure; None if the latent was not explained."""
    way: Way
    """How it was judged."""
    group: Group | None
    """The trials on its own windows; None if there is none."""

    def reason(self) -> str | None:
        """Why there is nothing to compare."""
        if self.explanation is None:
            return f"not explained in {self.letter}"
        if self.explanation.text is None:
            failure = (self.explanation.failure or "").partition(":")[0]
            return f"no explanation in {self.letter}: {failure}"
        return None if self.group else f"not judged in {self.letter}"


class Judged:
    """The verdicts of a file with what they are about."""

    def __init__(self, db: Database) -> None:
        """Read nothing yet."""
        self._db = db
        self._explanations: dict[str, dict[str, Explanation]] = {}
        self._groups: dict[str, dict[tuple[str, Way], Group]] = {}
        self._of_latent: dict[tuple[str, int, Way], list[Group]] = {}
        self._rows: dict[tuple[str, Way], list[TrialRow]] = {}
        self._examples: dict[str, ExampleSet] = {}

    def explanations(self, cache_id: str) -> dict[str, Explanation]:
        """Every explanation of a cache by its id."""
        if cache_id not in self._explanations:
            found = studies.load_explanations(self._db, cache_id)
            self._explanations[cache_id] = {each.id: each for each in found}
        return self._explanations[cache_id]

    def groups(self, cache_id: str) -> dict[tuple[str, Way], Group]:
        """Explanation and way to score → its trials on its own windows, of scorers we know."""
        if cache_id not in self._groups:
            found: dict[tuple[str, Way], Group] = {}
            for group in trials.scored_groups(self._db, cache_id):
                scorer = SCORERS.get(group.scorer)
                if scorer and scorer.judges == "explanation" and group.settings.startswith("{"):
                    way = Way(group.scorer, group.settings, group.model_id)
                    found.setdefault((group.explanation_id or "", way), group)
                    self._of_latent.setdefault((cache_id, group.latent, way), []).append(group)
            self._groups[cache_id] = found
        return self._groups[cache_id]

    def ways(self, arm: Arm) -> set[Way]:
        """The ways in which an arm was judged, by its judge if it names one."""
        own = set(arm.explanations.values())
        return {
            way
            for explanation_id, way in self.groups(arm.cache_id)
            if explanation_id in own and arm.judge in ("", way.model_id)
        }

    def side(self, letter: str, arm: Arm, latent: int, way: Way) -> Side:
        """What an arm has on a latent."""
        name = arm.explanations.get(latent, "")
        explanation = self.explanations(arm.cache_id).get(name)
        group = self.groups(arm.cache_id).get((name, way))
        return Side(letter, arm.cache_id, latent, explanation, way, group)

    def own(self, group: Group) -> TrialRow:
        """The trial of the explanation itself."""
        way = Way(group.scorer, group.settings, group.model_id)
        return next(
            row
            for row in self._trials(group.example_set_id, way)
            if row.explanation_id == group.explanation_id and not row.control
        )

    def examples(self, group: Group) -> ExampleSet:
        """The windows of a group."""
        name = group.example_set_id
        if name not in self._examples:
            found = studies.load_example_set(self._db, name)
            assert found is not None
            self._examples[name] = found
        return self._examples[name]

    def controls(self, cache_id: str, way: Way, like: Group) -> list[TrialRow]:
        """Trials of other latents' explanations on the items of a group, for whichever arm.

        Args:
            cache_id: the cache.
            way: how they were judged, perhaps by another judge than the group.
            like: the group.
        """
        self.groups(cache_id)
        found: dict[str, TrialRow] = {}
        for group in self._of_latent.get((cache_id, like.latent, way), ()):
            if self.items_alike(group, like):
                for row in self._trials(group.example_set_id, way):
                    if row.control and row.explanation_id:
                        found.setdefault(row.explanation_id, row)
        return [found[name] for name in sorted(found)]

    def items_alike(self, group: Group, other: Group) -> bool:
        """Whether items of the same name are the same question in two groups."""
        if group.example_set_id == other.example_set_id:
            return True
        return self._meaning(group) == self._meaning(other)

    def _meaning(self, group: Group) -> str:
        """What a question depends on beside its window."""
        if SCORERS[group.scorer].steers:
            return group.example_set_id  # continuations are written for each example set
        if group.scorer in ALONE and not json.loads(group.settings).get("list"):
            return ""
        examples = self.examples(group)
        return content_id([examples.seed, [each.window.id for each in examples.scored]])

    def _trials(self, example_set_id: str, way: Way) -> list[TrialRow]:
        if (example_set_id, way) not in self._rows:
            self._rows[example_set_id, way] = trials.load_trials(self._db, example_set_id, *way)
        return self._rows[example_set_id, way]
