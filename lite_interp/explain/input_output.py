"""An engine reads both where a latent fires and what it makes likelier.

Source: arXiv 2501.08319, whose ensembles of both kinds of evidence describe a latent's input and
output better than either. We differ: one prompt shows both, where they join texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lite_interp.explain.asking import ask_engine
from lite_interp.explain.base import Evidence, Explainer
from lite_interp.explain.output import raised_values, raised_words
from lite_interp.explain.windows import ASKING, EXCERPTS, shown_values
from lite_interp.prompts import Message, Prompt, Takes

RAISED = frozenset({"endings", "raised"})


def about_both(
    known: Evidence, prompt: Prompt, settings: Mapping[str, Any]
) -> tuple[Message, ...] | str:
    """The question about shown windows and raised words."""
    raised = raised_words(known.steering)
    if not known.examples.shown:
        return "no_windows"
    if not raised:
        return "no_output"
    values = {
        **shown_values(known.examples, settings["n_words"]),
        **raised_values(raised, settings["n_prompts"], settings["n_raised"]),
    }
    return prompt.fill(**{name: values[name] for name in prompt.variables})


INPUT_OUTPUT = Explainer(
    "input+output",
    "An engine reads marked excerpts and the words that steering makes likelier.",
    "explain/input_output",
    {**ASKING, "n_prompts": 6, "n_raised": 12},
    partial(ask_engine, question=about_both),
    Takes(EXCERPTS | RAISED | {"words"}, (EXCERPTS, RAISED)),
    "output",
)
