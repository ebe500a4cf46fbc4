"""Embedding: do the windows that activate lie nearer to the explanation than silent ones?

    value(window) = cosine(embed(explanation), embed(window))

The score is the AUROC of the cosine over activating and silent windows. Source: arXiv
2410.13928, section 3.3.4 and appendix D.4. We differ: no instruction is put before the
explanation, because the small embedders used here were not trained with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lite_interp.render import plain_text
from lite_interp.score.base import Item, Judgement, Scorer, Tools, quoted, scored_windows


def score(
    explanation: str, items: Sequence[Item], tools: Tools, settings: Mapping[str, Any]
) -> list[Judgement]:
    """One cosine a window, -1..1."""
    if tools.embedder is None:
        raise ValueError("the embedding scorer needs an embedder")
    if not items:
        return []
    texts = [quoted(explanation), *(plain_text(item.window) for item in items)]
    vectors = tools.embedder.embed(texts)
    return [Judgement(float(cosine)) for cosine in vectors[1:] @ vectors[0]]


EMBEDDING = Scorer(
    "embedding",
    "Cosine between the explanation and the window under a sentence-embedding model.",
    "embedder",
    None,
    "cosine",
    {},
    scored_windows,
    score,
)
