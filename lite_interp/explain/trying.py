"""How an explanation fares on the windows that are held out for its explainer.

The engine that explains also tries: one detection question a window, and the AUROC of the margins
over activating and silent windows. What is scored later are other windows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lite_interp import stats
from lite_interp.cost import Meter
from lite_interp.explain.base import Means
from lite_interp.records import ExampleSet, Usage, Window
from lite_interp.score.base import Item, Tools
from lite_interp.score.detection import DETECTION

JUDGE = {"judge": "score/detection"}
"""The prompt that tries."""

FEWEST = 3
"""Held-out windows of each kind without which nothing is tried."""

FEW = "few_held_out"
"""The failure of having fewer."""


class Tried(NamedTuple):
    """An explanation and what a judge that knows only it says of the held-out windows."""

    text: str
    """The explanation."""
    auroc: float
    """Over the windows with a margin; NaN if the judge failed."""
    missed: tuple[Window, ...]
    """Activating windows among the lower half of all margins, the lowest first."""
    mistaken: tuple[Window, ...]
    """Silent windows among the upper half, the highest first."""
    usage: Usage
    """What trying cost."""


def can_try(examples: ExampleSet) -> bool:
    """Whether enough windows of each kind are held out."""
    n_active = sum(placed.window.peak > 0 for placed in examples.held_out)
    return min(n_active, len(examples.held_out) - n_active) >= FEWEST


def try_out(text: str, examples: ExampleSet, means: Means) -> Tried:
    """Judge the held-out windows by an explanation alone."""
    meter = Meter(means.engine)
    items = [
        Item(placed.window, placed.window.peak > 0, placed.stratum, placed.weight)
        for placed in examples.held_out
    ]
    tools = Tools(engine=means.engine, prompt=means.helpers["judge"])
    judged = DETECTION.score(text, items, tools, DETECTION.settings)
    known = [
        (item, float(each.value))
        for item, each in zip(items, judged, strict=True)
        if each.value is not None
    ]
    margins = np.array([margin for _, margin in known])
    active = np.array([item.active for item, _ in known], bool)
    # What rounding leaves between equal areas is no improvement.
    area = round(stats.auroc(active, margins), stats.DECIMALS) if len(known) else float("nan")
    # Margins of a small judge are not centred on 0; where they stand among each other counts.
    middle = float(np.median(margins)) if len(known) else 0.0
    wrong = sorted(known, key=lambda each: each[1])
    missed = [item.window for item, margin in wrong if item.active and margin < middle]
    mistaken = [item.window for item, margin in wrong if not item.active and margin > middle]
    return Tried(text, area, tuple(missed), tuple(reversed(mistaken)), meter.read())
