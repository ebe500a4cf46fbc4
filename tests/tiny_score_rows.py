"""Scores made by hand, as `load_scores` gives them."""

from __future__ import annotations

from typing import Any

EVIL = "\x1b]0;title\x07\x1b[2J[bold red]b[/] \x9b31m\u202eevil\r\n\x08\ufeff[link=file:///x]y年"

STRATA = {f"decile_{d}": {"n": 4, "auroc": 0.9 - 0.05 * d} for d in range(10)}

AREA = {
    "strata": {**STRATA, "random": {"n": 40, "auroc": 0.84}, "near": {"n": 10, "auroc": 0.6}},
    "threshold": -0.4,
    "n_calibration": 320,
    "balanced_accuracy": [0.74, 0.66, 0.81],
    "brier": 0.21,
    "ece": 0.08,
    "recall": [0.7, 0.6, 0.8],
    "f1": [0.12, 0.05, 0.3],
    "average_precision": [0.2, 0.1, 0.4],
    "base_rate": 0.0031,
}


def score_row(latent: int = 5, scorer: str = "detection", **changed: Any) -> dict[str, Any]:
    """A score of an explanation, an area if nothing else is said."""
    row = {
        "example_set_id": f"b2:set{latent}",
        "explanation_id": f"b2:llm{latent}",
        "scorer": scorer,
        "settings": "{}",
        "model_id": "b2:engine",
        "variant": "raw",
        "statistic": "auroc",
        "value": 0.83,
        "low": 0.72,
        "high": 0.91,
        "null_value": 0.51,
        "difference": 0.32,
        "difference_low": 0.2,
        "difference_high": 0.44,
        "p_value": 0.001,
        "q_value": 0.003,
        "n_active": 40,
        "n_silent": 38,
        "n_failed": 2,
        "n_controls": 4,
        "metrics": AREA,
        "reason": None,
        "tokens": 1200,
        "seconds": 2.5,
        "number": 1,
        "latent": latent,
        "text": f"meaning {latent}",
        "failure": None,
        "explainer": "llm",
        "explained_by": "b2:engine",
        "explained_with": "b2:prompt",
    }
    return {**row, **changed}


def nothing_row(latent: int = 5, scorer: str = "detection", **changed: Any) -> dict[str, Any]:
    """A score without a number."""
    numbers = ("value", "low", "high", "null_value", "difference", "difference_low")
    none = dict.fromkeys([*numbers, "difference_high", "p_value", "q_value"])
    counts = {"n_active": 0, "n_silent": 3, "metrics": {}, "reason": "too few windows"}
    return score_row(latent, scorer, **{**none, **counts, **changed})


def intruder_row(latent: int = 5, value: float = 0.6, **changed: Any) -> dict[str, Any]:
    """How many intruders among five windows were found: a score of the latent itself."""
    strata = {"decile_0": {"n": 2, "share": 1.0}, "decile_3": {"n": 2, "share": 0.5}}
    own = {
        "explanation_id": None,
        "explainer": None,
        "explained_by": None,
        "explained_with": None,
        "text": None,
        "statistic": "accuracy",
        "value": value,
        "low": value - 0.15,
        "high": value + 0.15,
        "null_value": 0.2,
        "difference": value - 0.2,
        "difference_low": value - 0.35,
        "difference_high": value - 0.05,
        "n_active": 20,
        "n_silent": 0,
        "n_controls": 0,
        "metrics": {"strata": strata},
    }
    return score_row(latent, "intruder", **{**own, **changed})


def simulation_row(latent: int = 5, **changed: Any) -> dict[str, Any]:
    """A correlation between simulated and true activations."""
    strata = {"decile_0": {"n": 4, "pearson": 0.7}, "random": {"n": 9, "pearson": None}}
    more = {"strata": strata, "top_and_random": 0.66, "window_auroc": 0.81, "mass": 0.97}
    own = {"statistic": "pearson", "value": 0.41, "low": 0.2, "high": 0.6, "null_value": 0.02}
    return score_row(latent, "simulation", **{**own, "metrics": more, **changed})


def intervention_row(latent: int = 5, **changed: Any) -> dict[str, Any]:
    """A gain in nats behind steered text."""
    more = {"strength": 12.34, "kl_tuned": 1.01, "kl_scored": 0.94, "failure": None, "sem": 0.11}
    own = {"statistic": "nats", "value": 0.52, "low": 0.3, "high": 0.74, "null_value": -0.04}
    own |= {"n_active": 10, "n_silent": 0, "settings": '{"kl":1.0}', "metrics": more}
    return score_row(latent, "intervention", **{**own, **changed})


def all_rows(latent: int = 5) -> list[dict[str, Any]]:
    """One score of every scorer."""
    areas = [score_row(latent, name) for name in ("detection", "fuzzing", "surprisal", "embedding")]
    return [*areas, intervention_row(latent), simulation_row(latent), intruder_row(latent)]
