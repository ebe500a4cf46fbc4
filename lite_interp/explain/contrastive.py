"""An engine also sees where the latent is silent although the window looks alike.

The silent windows are held out: half of them hold a main token of the latent, if the corpus has
such windows. Neither they nor any part of them is scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import Evidence, Explainer
from lite_interp.explain.windows import ASKING, EXCERPTS, plain_excerpts, shown_values
from lite_interp.prompts import Message, Prompt, Takes

SILENT = frozenset({"silent_excerpts"})


def about_contrast(
    known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...] | str:
    """The question about shown windows and silent ones, look-alikes first."""
    examples = known.examples
    silent = [placed.window for placed in examples.held_out if not placed.window.peak > 0]
    if not examples.shown:
        return "no_windows"
    if not silent:
        return "no_silent_windows"
    values = {
        **shown_values(examples, settings["n_words"]),
        "silent_excerpts": plain_excerpts(silent[: settings["n_silent"]]),
    }
    return prompt.fill(**{name: values[name] for name in prompt.variables})


CONTRASTIVE = Explainer(
    "contrastive",
    "An engine reads marked excerpts beside look-alikes on which the latent is silent.",
    "explain/contrastive",
    {**ASKING, "n_silent": 6},
    partial(ask_engine, question=about_contrast),
    Takes(EXCERPTS | SILENT | {"words"}, (EXCERPTS, SILENT)),
    n_held_out=10,
)
