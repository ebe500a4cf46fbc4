"""What a scorer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lite_interp.embedder import Embedder
from lite_interp.engine import Engine
from lite_interp.prompts import Prompt
from lite_interp.records import Window


class Judgement(NamedTuple):
    """One answer on one window, before it is stored as a verdict."""

    value: float | None
    """The scorer's number; None if there is none."""
    failure: str | None = None
    """Why there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What a scorer may use."""

    engine: Engine | None = None
    """The local model that judges."""
    embedder: Embedder | None = None
    """The sentence-embedding model."""
    prompt: Prompt | None = None
    """The scorer's prompt."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """One way to measure an explanation."""

    name: str
    """Name in SCORERS."""
    description: str
    """One sentence for the documentation."""
    needs: Literal["engine", "embedder"]
    """What it judges with."""
    prompt: str | None
    """Prompt file it uses unless another is named."""
    unit: str
    """Unit of a verdict's value."""
    settings: Mapping[str, Any]
    """What changes the numbers; goes into the id of a trial."""
    score: Callable[[str, Sequence[Window], Tools], list[Judgement]]
    """Explanation and windows to one judgement a window, in the same order."""
