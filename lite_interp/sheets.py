"""The verdicts that one score is made from, item by item, and ways to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp import stats
from lite_interp.records import Usage

MOST_MISSING = 1 / 3
"""Share of the items on which a control may have no value."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """The verdicts that one score is made from, aligned item by item."""

    example_set_id: str
    """The windows."""
    explanation_id: str | None
    """The explanation; None if the latent was judged without one."""
    scorer: str
    """Name of the scorer."""
    settings: Mapping[str, Any]
    """Its settings, and when it stopped."""
    active: NDArray[np.bool_]
    """(n,) the right answers."""
    strata: NDArray[np.str_]
    """(n,) stratum of each item's window."""
    weights: NDArray[np.float64]
    """(n,) windows in the cache that each stands for."""
    values: NDArray[np.float64]
    """(1 + c, n) values of the own trial, then of each control; NaN where a verdict failed."""
    details: tuple[tuple[Mapping[str, Any], ...], ...]
    """(1 + c) × (n) what else the scorer said."""
    activations: tuple[NDArray[np.float32], ...]
    """(n) × (w,) the truth for each token of each item's window."""
    are_windows: bool
    """Whether every item is a window as it stands in the corpus: then base rates mean something."""
    n_items: int
    """Items there were to judge; more than n if judging stopped because it was sure."""
    usage: Usage
    """What all of it cost."""
    facts: Mapping[str, Any]
    """What else belongs to the score, e.g. how strongly the subject was steered."""

    population: Mapping[str, float]
    """Stratum → windows of it in the cache."""

    def usable(self) -> Sheet:
        """Only the items with a value from all, and the controls that `usable_rows` keeps."""
        kept_rows, kept = usable_rows(self.values)
        values = self.values[kept_rows]
        details = [self.details[row] for row in kept_rows]
        return replace(
            self,
            active=self.active[kept],
            strata=self.strata[kept],
            weights=self.weights[kept],
            values=values[:, kept],
            details=tuple(tuple(row[place] for place in kept) for row in details),
            activations=tuple(self.activations[place] for place in kept),
        )


def usable_rows(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which trials count, and the items on which they all have a value.

    Args:
        values: (1 + c, n) of the own trial, then of each control; NaN where a verdict failed.

    Returns:
        (r,) rows, the own one first, and (m,) columns. A control that failed on more than a third
        of the items that the explanation has a value on is left out: it would cost them.
    """
    there = ~np.isnan(values)
    n = there[0].sum()
    missing = (there[0] & ~there[1:]).sum(axis=1)
    rows = np.array([0, *(1 + np.flatnonzero(missing <= MOST_MISSING * n))], np.int64)
    if not n:
        rows = rows[:1]
    return rows, np.flatnonzero(there[rows].all(axis=0))


class Reading(NamedTuple):
    """One way to read a sheet: what is compared with what."""

    variant: str
    """`raw`, `relative`, `per_token`."""
    own: NDArray[np.float64]
    """(n,) values under the explanation."""
    controls: NDArray[np.float64]
    """(c, n) the same under the controls."""


def readings(sheet: Sheet) -> list[Reading]:
    """Values as they are; less the controls' mean, of two or more; for each token, if said."""
    own, controls = sheet.values[0], sheet.values[1:]
    found = [Reading("raw", own, controls)]
    if len(controls) >= 2:
        relative = stats.relative(own, controls)
        found.append(Reading("relative", relative, stats.relative_controls(controls)))
    if own.size and "per_token" in sheet.details[0][0]:
        table = np.array([[detail["per_token"] for detail in row] for row in sheet.details])
        found.append(Reading("per_token", table[0], table[1:]))
    return found


def population_weights(sheet: Sheet) -> NDArray[np.float64] | None:
    """(n,) windows that each item stands for, of those that have a value.

    Items without a value, or that were not judged because it was sure, leave their part to the
    others of their stratum. None if a stratum has no other: then nothing is known of it.
    """
    weights = sheet.weights.copy()
    for stratum, size in sheet.population.items():
        inside = sheet.strata == stratum
        if not inside.any():
            return None
        weights[inside] *= size / weights[inside].sum()
    return weights
