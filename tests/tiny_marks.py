"""Example sets for scorers that mark tokens: from puzzles whose answers are known, or at random."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lite_interp.records import ExampleSet, Placed, Window

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUZZLES = tomllib.loads(Path(__file__).with_name("puzzles.toml").read_text(encoding="utf-8"))
LATENTS, KNOWS = PUZZLES["latent"], PUZZLES["knows"]
NAMES = [latent["true"] for latent in LATENTS]


def window(tokens: Sequence[str], values: Sequence[float], name: str = "") -> Window:
    assert len(tokens) == len(values)
    return Window(
        name or "b2:" + "".join(tokens), 0, 0, 0, tuple(tokens), np.array(values, np.float32)
    )


def from_text(text: str) -> Window:
    """A window from a text whose active words stand in ** **."""
    words = re.findall(r"\s*\S+", text)
    return window([word.replace("**", "") for word in words], ["**" in word for word in words])


def example_set(active: Sequence[Window], silent: Sequence[Window], seed: int = 0) -> ExampleSet:
    """Activating windows, the strongest first, in ten deciles; silent ones behind them."""
    parts = np.array_split(np.arange(len(active)), 10)
    strata = [f"decile_{number}" for number, part in enumerate(parts) for _ in part]
    scored = [Placed(each, stratum, 7.0) for each, stratum in zip(active, strata, strict=True)]
    scored += [Placed(each, "random", 100.0) for each in silent]
    return ExampleSet("b2:set", 5, "quantiles", {}, seed, (), tuple(scored))


def puzzle(latent: Mapping[str, Any], seed: int = 0) -> ExampleSet:
    active, silent = (list(map(from_text, latent[kind])) for kind in ("active", "silent"))
    return example_set(active, silent, seed)


def spread_puzzle(latent: Mapping[str, Any], seed: int = 0) -> ExampleSet:
    """The same with words around each text, so that no two windows fire at the same place."""
    active, silent = (
        [
            from_text("so " * number + text + " so" * (len(latent[kind]) - number))
            for number, text in enumerate(latent[kind])
        ]
        for kind in ("active", "silent")
    )
    return example_set(active, silent, seed)


def at_random(seed: int, n_active: int = 20, n_silent: int = 20, dense: int = 0) -> ExampleSet:
    """Windows of words, parts of words, stops and spaces; marks of many shapes, mostly late.

    In `dense` of the activating windows the latent fires nearly everywhere.
    """
    draw = np.random.default_rng(seed)
    parts = np.array([" the", " wind", "ow", " is", "n", ".", " ", "\n", " blue", "!"])

    def tokens(n: int) -> list[str]:
        return [str(each) for each in draw.choice(parts, n)]

    active = []
    for number in range(n_active):
        n = int(draw.choice([16, 24, 24, 24]))
        values = np.zeros(n)
        for _ in range(draw.integers(1, 4)):
            start = int(n * np.sqrt(draw.random()))
            values[start : start + draw.integers(1, 4)] = draw.uniform(0.1, 5)
        if number < dense:
            values[:] = 1.0
            values[draw.integers(n)] = 0.0
        active.append(window(tokens(n), list(values), f"b2:active{number}"))
    silent = [window(tokens(24), [0.0] * 24, f"b2:silent{number}") for number in range(n_silent)]
    return example_set(active, silent, seed)
