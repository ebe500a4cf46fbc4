"""What people are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Task = Literal["explanation", "detection", "fuzzing", "intruder"]
"""What a person does: rate an explanation, or be the judge of a scorer."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that people are asked. It names no rater: all are asked the same."""

    task: Task
    """What is to be done."""
    explanation_id: str | None
    """The explanation; None where the latent is judged without one."""
    example_set_id: str
    """Whose scored windows it is about."""
    settings: Mapping[str, Any]
    """Settings of the scorer whose item it is; empty for the task `explanation`."""
    window_id: str | None = None
    """The window; None where the question is about all of them."""
    item: str = ""
    """What tells items of one window apart, as in `Verdict`."""
    right_answer: int | None = None
    """What would be right, as `Rating.answer`; None for an opinion."""


@dataclass(frozen=True, slots=True)
class Rating:
    """What one person answered to one question."""

    id: str
    """Content id of rater and question."""
    rater: str
    """Who."""
    question: Question
    """What was asked."""
    answer: int
    """1 to 4 for an explanation; 1 = yes and 0 = no; the place of the intruder, from 1."""
    seconds: float
    """From the question to the answer."""
    answered_utc: str
    """When, ISO 8601."""
