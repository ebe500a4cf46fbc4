"""What the judges said of each window, beside what they said under other latents' explanations.

Marks and questions are not stored with verdicts; they follow from the example set and the
scorer's settings, and are made again here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lite_interp.db import report as reading
from lite_interp.db.report import Judged
from lite_interp.errors import UsageError
from lite_interp.records import ExampleSet
from lite_interp.report.study import Row, Study
from lite_interp.report.texts import compact, numbers, visible
from lite_interp.score import SCORERS, Item, find_scorer
from lite_interp.score.base import Marked
from lite_interp.ways import Way

Key = tuple[str, str]
"""A window and the name of the item."""


def judged_records(
    study: Study, examples: ExampleSet, places: Mapping[str, int]
) -> dict[str | None, list[Row]]:
    """Explanation, or None where there was none → a record for each way it was judged in.

    An item is [place of its window, right answer 1 or 0, number, mean number of the controls,
    more]; `more` is left out where there is nothing more to say.
    """
    by_way: dict[Way, dict[str, list[Judged]]] = {}
    for verdict in reading.set_verdicts(study.db, examples.id):
        if verdict.window_id in places:
            way = Way(verdict.scorer, verdict.settings, verdict.model_id)
            by_way.setdefault(way, {}).setdefault(verdict.trial_id, []).append(verdict)
    found: dict[str | None, list[Row]] = {}
    for way, trials in by_way.items():
        name = study.name(way)
        if name is None:
            continue
        named = any(verdict.item for verdicts in trials.values() for verdict in verdicts)
        items = _items(way, examples) if named else {}
        for verdicts in trials.values():
            if not verdicts[0].control:
                controls = _controls(study, verdicts[0].explanation_id, trials.values())
                rows = [_item(verdict, controls, items, places) for verdict in verdicts]
                record = {"name": name, "scorer": visible(way.scorer), "items": rows}
                found.setdefault(verdicts[0].explanation_id, []).append(record)
    return found


def _controls(study: Study, explanation_id: str | None, trials: Any) -> dict[Key, list[float]]:
    """What the explanation's controls were given on each item: other latents', made alike."""
    latent, made = study.made.get(explanation_id or "", (-1, ""))
    found: dict[Key, list[float]] = {}
    for verdicts in trials:
        other = study.made.get(verdicts[0].explanation_id or "", (latent, ""))
        if verdicts[0].control and other[0] != latent and other[1] == made:
            for verdict in verdicts:
                if verdict.value is not None:
                    key = (verdict.window_id, verdict.item)
                    found.setdefault(key, []).append(verdict.value)
    return found


def _item(
    verdict: Judged,
    controls: Mapping[Key, Sequence[float]],
    items: Mapping[Key, Item],
    places: Mapping[str, int],
) -> list[Any]:
    key = (verdict.window_id, verdict.item)
    others = controls.get(key, ())
    null = compact(float(np.mean(others))) if others else None
    found = [places[verdict.window_id], int(verdict.active), compact(verdict.value), null]
    detail = verdict.detail if isinstance(verdict.detail, dict) else {}
    more: Row = {}
    if verdict.failure is not None:
        more["failure"] = visible(verdict.failure)
    if "expected" in detail:
        more["expected"] = numbers(detail["expected"])
    for name in ("place", "chosen"):
        if type(detail.get(name)) is int:
            more[name] = detail[name]
    item = items.get(key)
    if item is not None and item.marked is not None:
        more["marks"] = np.flatnonzero(item.marked).tolist()
    if item is not None and item.choices:
        more["choices"] = [_choice(choice, places) for choice in item.choices]
    return [*found, more] if more else found


def _choice(choice: Marked, places: Mapping[str, int]) -> list[Any]:
    return [places.get(choice.window.id), np.flatnonzero(choice.marked).tolist()]


def _items(way: Way, examples: ExampleSet) -> dict[Key, Item]:
    """What was asked about, by window and name; empty for a scorer that is not known here."""
    if way.scorer not in SCORERS:
        return {}
    try:
        known = SCORERS[way.scorer].settings
        stored = json.loads(way.settings)
        settings = {key: value for key, value in stored.items() if key in known}
        scorer = find_scorer(way.scorer, settings)
        return {
            (item.window.id, item.name): item
            for item in scorer.items(examples, scorer.settings, None)
        }
    except (UsageError, ValueError, AttributeError):  # another's file
        return {}
