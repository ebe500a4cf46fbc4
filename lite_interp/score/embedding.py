"""Embedding: do the windows that activate lie nearer to the explanation than silent ones?

    value(window) = cosine(embed(explanation), embed(window))

The score is the AUROC of the cosine over activating and silent windows. Source: arXiv
2410.13928, section 3.3.4 and appendix D.4. We differ: no instruction is put before the
explanation, because the small embedders used here were not trained with one.
"""

from __future__ import annotations

from collections.abc import Sequence

from lite_interp.records import Window
from lite_interp.render import plain_text
from lite_interp.score.base import Judgement, Scorer, Tools


def score(explanation: str, windows: Sequence[Window], tools: Tools) -> list[Judgement]:
    """One cosine a window, -1..1."""
    if tools.embedder is None:
        raise ValueError("the embedding scorer needs an embedder")
    if not windows:
        return []
    vectors = tools.embedder.embed([explanation, *(plain_text(window) for window in windows)])
    return [Judgement(float(cosine)) for cosine in vectors[1:] @ vectors[0]]


EMBEDDING = Scorer(
    "embedding",
    "Cosine between the explanation and the window under a sentence-embedding model.",
    "embedder",
    None,
    "cosine",
    {},
    score,
)
