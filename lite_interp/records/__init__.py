"""The records that cross module borders: frozen, numpy only, a docstring under each field.

An `id` is the content id (`ids.content_id`) of what was asked, never of what came back.
"""

from lite_interp.records.asking import (
    Explanation,
    Generation,
    Sampling,
    Usage,
)
from lite_interp.records.rating import Question, Rating, Task
from lite_interp.records.reading import (
    ContextShard,
    Corpus,
    Document,
    ExampleSet,
    Firings,
    Hookpoint,
    LatentStats,
    Place,
    Placed,
    Role,
    Side,
    Window,
)
from lite_interp.records.scoring import (
    Estimate,
    Passage,
    Score,
    Steering,
    Trial,
    Verdict,
)

__all__ = [
    "ContextShard",
    "Corpus",
    "Document",
    "Estimate",
    "ExampleSet",
    "Explanation",
    "Firings",
    "Generation",
    "Hookpoint",
    "LatentStats",
    "Passage",
    "Place",
    "Placed",
    "Question",
    "Rating",
    "Role",
    "Sampling",
    "Score",
    "Side",
    "Steering",
    "Task",
    "Trial",
    "Usage",
    "Verdict",
    "Window",
]
