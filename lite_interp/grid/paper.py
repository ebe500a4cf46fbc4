"""What arXiv 2410.13928 found where it varied one thing at a time: appendix F, tables A3 to A9.

Gemma 2 9B with its 131k residual coder, explained and judged by Llama 3.1 70B; the smaller engine
is its 8B. Detection and fuzzing are accuracies, embedding is an AUROC.
"""

from __future__ import annotations

Quartiles = tuple[float, float, "float | None"]
"""Median, lower and upper quartile; None where the paper's number is a slip."""

PAPER: dict[str, dict[str, Quartiles]] = {
    "base": {
        "detection": (0.74, 0.63, 0.85),
        "fuzzing": (0.76, 0.67, 0.86),
        "embedding": (0.67, 0.57, 0.80),
    },
    "shuffled": {
        "detection": (0.51, 0.45, 0.58),
        "fuzzing": (0.51, 0.45, 0.57),
        "embedding": (0.51, 0.44, 0.57),
    },
    "random_coder": {
        "detection": (0.54, 0.50, 0.59),
        "fuzzing": (0.55, 0.50, 0.60),
    },
    "paper": {
        "detection": (0.74, 0.63, 0.85),
        "fuzzing": (0.76, 0.67, 0.86),
        "embedding": (0.68, 0.57, 0.80),
    },
    "paper_no_activations": {
        "detection": (0.73, 0.60, 0.84),
        "fuzzing": (0.75, 0.65, 0.86),
        "embedding": (0.68, 0.58, 0.79),
    },
    "paper_thoughts": {
        "detection": (0.73, 0.61, 0.85),
        "fuzzing": (0.76, 0.66, 0.86),
        "embedding": (0.65, 0.55, 0.75),
    },
    "width16": {
        "detection": (0.74, 0.62, 0.85),
        "fuzzing": (0.75, 0.65, 0.86),
        "embedding": (0.70, 0.59, 0.81),
    },
    "width64": {
        "detection": (0.70, 0.57, 0.81),
        "fuzzing": (0.74, 0.64, None),
        "embedding": (0.65, 0.54, 0.78),
    },
    "random": {
        "detection": (0.74, 0.62, 0.84),
        "fuzzing": (0.76, 0.68, 0.86),
        "embedding": (0.66, 0.56, 0.78),
    },
    "quantiles": {
        "detection": (0.74, 0.64, 0.85),
        "fuzzing": (0.77, 0.69, 0.87),
        "embedding": (0.68, 0.57, 0.80),
    },
    "top": {
        "detection": (0.72, 0.62, 0.82),
        "fuzzing": (0.73, 0.64, 0.83),
        "embedding": (0.70, 0.58, 0.80),
    },
    "n10": {
        "detection": (0.71, 0.62, 0.82),
        "fuzzing": (0.73, 0.62, 0.85),
        "embedding": (0.64, 0.54, 0.74),
    },
    "n20": {
        "detection": (0.72, 0.60, 0.84),
        "fuzzing": (0.74, 0.64, 0.85),
        "embedding": (0.66, 0.54, 0.76),
    },
    "n40": {
        "detection": (0.74, 0.63, 0.85),
        "fuzzing": (0.76, 0.67, 0.86),
        "embedding": (0.68, 0.57, 0.80),
    },
    "n60": {
        "detection": (0.73, 0.62, 0.84),
        "fuzzing": (0.75, 0.66, 0.85),
        "embedding": (0.68, 0.57, 0.79),
    },
    "explained_by_other": {
        "detection": (0.70, 0.59, 0.81),
        "fuzzing": (0.70, 0.60, 0.81),
        "embedding": (0.64, 0.54, 0.75),
    },
    "judged_by_other": {
        "detection": (0.70, 0.59, 0.81),
        "fuzzing": (0.70, 0.60, 0.81),
    },
}
"""Condition of the grid → scorer → figures. Tables A8 (explainer) and A9 (scorer) have the same
numbers for 8B, which is suspicious."""
