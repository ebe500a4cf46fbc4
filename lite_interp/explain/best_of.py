"""Several explanations are drawn; the one that fares best on held-out windows is kept.

Source of the idea: Transluce, "Scaling automatic neuron description" (2024). The choice is made on
windows that are not scored, so the score of what is chosen is not flattered by the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lite_interp.cost import Meter
from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import Answer, Evidence, Explainer, Means
from lite_interp.explain.trying import FEW, JUDGE, Tried, can_try, try_out
from lite_interp.explain.windows import ASKING, EXCERPTS, about_windows
from lite_interp.prompts import Takes


def explain_best(group: Sequence[Evidence], means: Means) -> list[Answer]:
    """Draw k explanations of each latent, try each, keep the best.

    Latent by latent: one prompt is long, and read once for its k answers.
    """
    return [
        _best(known, means) if can_try(known.examples) else Answer(None, "", FEW) for known in group
    ]


def _best(known: Evidence, means: Means) -> Answer:
    """The draft with the greatest AUROC on held-out windows; of equal ones the first."""
    meter = Meter(means.engine)
    drafts = ask_engine([known] * means.settings["k"], means, about_windows)
    tried: dict[str, Tried] = {}
    for draft in drafts:
        if draft.text is not None and draft.text not in tried:
            tried[draft.text] = try_out(draft.text, known.examples, means)

    def rank(draft: Answer) -> float:
        area = tried[draft.text].auroc if draft.text is not None else math.nan
        return -math.inf if math.isnan(area) else area

    usable = [draft for draft in drafts if draft.text is not None]
    best = max(usable, key=rank) if usable else drafts[0]
    detail = {"drafts": [draft_row(draft, tried.get(draft.text or "")) for draft in drafts]}
    return best._replace(usage=meter.read(), detail={**detail, "kept": drafts.index(best)})


def draft_row(draft: Answer, tried: Tried | None) -> dict[str, Any]:
    """A draft as the file keeps it."""
    area = tried.auroc if tried else math.nan
    return {
        "text": draft.text,
        "failure": draft.failure,
        "held_out_auroc": None if math.isnan(area) else area,
    }


BEST_OF = Explainer(
    "best_of",
    "An engine writes several explanations; the one that fares best on held-out windows is kept.",
    "explain/small",
    {**ASKING, "temperature": 0.7, "k": 4},
    explain_best,
    Takes(EXCERPTS | {"words"}, (EXCERPTS,)),
    helpers=JUDGE,
    n_held_out=10,
)
