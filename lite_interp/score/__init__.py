"""Scorers: one module each, one entry here."""

from __future__ import annotations

from lite_interp.errors import UsageError, nearest
from lite_interp.score.base import Judgement, Scorer, Tools
from lite_interp.score.detection import DETECTION
from lite_interp.score.embedding import EMBEDDING

__all__ = ["SCORERS", "Judgement", "Scorer", "Tools", "find_scorer"]

SCORERS = {scorer.name: scorer for scorer in (DETECTION, EMBEDDING)}


def find_scorer(name: str) -> Scorer:
    """A scorer by name, or a one-line error with what was perhaps meant."""
    if name not in SCORERS:
        raise UsageError(f"no scorer is named: {name}", nearest(name, SCORERS))
    return SCORERS[name]
