"""Sheets and scores from verdicts that are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lite_interp.db.trials import TrialRow
from lite_interp.measures import score_sheet
from lite_interp.records import Score, Usage, Window
from lite_interp.score import SCORERS, Item
from lite_interp.sheets import Sheet


def items_of(windows: Sequence[Window]) -> list[Item]:
    """Windows as `detection` asks about them."""
    return [
        Item(window, window.peak > 0, "decile_0" if window.peak > 0 else "random", 1.0)
        for window in windows
    ]


def make_sheet(own: TrialRow, controls: Sequence[TrialRow], scorer: str, **changes: Any) -> Sheet:
    """A sheet from trials: a control has a verdict on an item or NaN, whatever else it judged."""
    asked = [(verdict.window_id, verdict.item) for verdict in own.verdicts]
    tables = [
        {(verdict.window_id, verdict.item): verdict for verdict in row.verdicts}
        for row in (own, *controls)
    ]
    values = [
        [np.nan if key not in table or table[key].value is None else table[key].value
         for key in asked]
        for table in tables
    ]  # fmt: skip
    details = tuple(
        tuple((table[key].detail or {}) if key in table else {} for key in asked)
        for table in tables
    )
    active = np.array([verdict.active for verdict in own.verdicts], bool)
    plain = {
        "example_set_id": "b2:set",
        "explanation_id": own.explanation_id,
        "scorer": scorer,
        "settings": dict(SCORERS[scorer].settings),
        "active": active,
        "strata": np.where(active, "decile_0", "random"),
        "weights": np.ones(len(asked)),
        "values": np.array(values, np.float64).reshape(len(tables), len(asked)),
        "details": details,
        "activations": tuple(np.zeros(0, np.float32) for _ in asked),
        "are_windows": True,
        "n_items": len(asked),
        "usage": Usage(0, 0, 0.0),
        "facts": {},
        "population": {"decile_0": float(active.sum()), "random": float((~active).sum())},
    }
    return Sheet(**{**plain, **changes})


def score_trials(own: TrialRow, controls: Sequence[TrialRow], scorer: str) -> list[Score]:
    """The scores of an explanation from its trial and its controls, without a calibration."""
    sheet = make_sheet(own, controls, scorer)
    return list(score_sheet(sheet, SCORERS[scorer].statistic, lambda variant: None))
