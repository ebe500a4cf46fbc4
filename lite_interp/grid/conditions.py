"""A grid of studies: a base, and conditions that differ from it in one thing each.

The grid `paper` has what arXiv 2410.13928 varies in its appendix F, and the explainers and floors
that it lacks. Everything is compared with the base on the same latents and the same scored
windows, but for another width of windows and for a random coder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lite_interp import study
from lite_interp.errors import UsageError, nearest, one_line

BASE = "base"
"""Name of the condition that the others are compared with."""

SAMPLERS = ("top", "random", "mix", "quantiles")
"""Names of the conditions that draw the shown windows in another way."""

Changes = Mapping[str, Mapping[str, Any]]


class Condition(NamedTuple):
    """One row of a grid."""

    name: str
    """Name in its grid."""
    part: str
    """What it varies: the part of the grid."""
    label: str
    """It in words."""
    changes: Changes = {}
    """Section of a study → settings that are changed."""
    explained_by: str = ""
    """Another engine that explains; empty = the base's."""
    judged_by: str = ""
    """Another engine that judges; empty = the base's."""
    against: tuple[str, ...] = (BASE,)
    """Conditions that it is compared with."""
    ordinal: int = 0
    """Its place in the whole grid, whatever part of it is run."""


def changed(base: study.Study, changes: Changes) -> study.Study:
    """A study with some settings of its sections changed."""
    update = {}
    for section, settings in changes.items():
        own = getattr(base, section)
        update[section] = type(own).model_validate({**own.model_dump(), **settings})
    return base.model_copy(update=update)


LLM: Changes = {"explain": {"explainers": ("llm",)}}
NO_NULL: Changes = {"score": {"n_controls": 0}}
"""The controls of the base serve all conditions that are judged on the same windows."""


def paper_conditions(base: study.Study, other_engine: str) -> list[Condition]:
    """The conditions of the grid `paper`, those that say most first."""
    told = f"{base.examples.sampler}, {base.examples.n_shown} windows of {base.examples.width}"
    prompt = (base.explain.prompt or "explain/small").removeprefix("explain/")
    return [
        Condition(BASE, BASE, f"llm, {prompt} prompt, {told} tokens", LLM, against=()),
        _explainer("token_list", "token list: no engine"),
        _explainer("revise", "revise: its mistakes shown", "token_list"),
        _explainer("input+output", "input+output: steering shown too", "token_list"),
        *_draws(base),
        *_prompts(base),
        *(_engines(other_engine) if other_engine else []),
        Condition("random_coder", "floor", "a random coder", _random_coder(base)),
        _explainer("contrastive", "contrastive: look-alikes shown"),
        _explainer("best_of", "best of 4 drafts"),
        *_widths(base),
    ]


def _llm(name: str, part: str, label: str, *against: str, **sections: Any) -> Condition:
    """A condition without a null of its own."""
    return Condition(name, part, label, {**LLM, **NO_NULL, **sections}, against=(*against, BASE))


def _explainer(name: str, label: str, *against: str) -> Condition:
    asked = {"explainers": (name,), "prompt": ""}  # the base's prompt is none for others
    return _llm(name, "explainer", label, *against, explain=asked)


def _random_coder(base: study.Study) -> Changes:
    """Latents that the study names are those of the trained coder: as many are drawn instead."""
    named = base.latents.indices
    drawn = {"latents": {"indices": (), "n": len(set(named))}} if named else {}
    return {**LLM, **drawn, "coder": {"random": True}}


def _draws(base: study.Study) -> list[Condition]:
    """Other samplers and numbers of windows: tables A6 and A7."""
    n = base.examples.n_shown
    samplers = [name for name in SAMPLERS if name != base.examples.sampler]
    numbers = [number for number in (10, 20, 40, 60) if number != n]
    return [
        *(_llm(name, "sampling", f"{name} {n}", examples={"sampler": name}) for name in samplers),
        *(
            _llm(f"n{number}", "number", f"{number} windows", examples={"n_shown": number})
            for number in numbers
        ),
    ]


def _prompts(base: study.Study) -> list[Condition]:
    """The paper's prompt, without activations, and with thoughts: table A4."""

    def prompt(kind: str, label: str, *against: str) -> Condition:
        asked = {"explainers": ("llm",), "prompt": f"explain/{kind}"}
        return _llm(kind, "prompt", f"paper prompt, {label}", *against, explain=asked)

    every = [
        prompt("paper", "activations shown"),
        prompt("paper_no_activations", "no activations", "paper"),
        prompt("paper_thoughts", "chain of thought", "paper"),
    ]
    return [each for each in every if base.explain.prompt != f"explain/{each.name}"]


def _engines(other: str) -> list[Condition]:
    """Another engine that explains, and one that judges: tables A8 and A9."""
    return [
        _llm("explained_by_other", "engine", f"explained by {other}")._replace(explained_by=other),
        Condition("judged_by_other", "engine", f"judged by {other}", LLM, judged_by=other),
    ]


def _widths(base: study.Study) -> list[Condition]:
    """Other widths of windows, which are then other windows: table A5."""
    return [
        _llm(f"width{width}", "width", f"windows of {width} tokens", examples={"width": width})
        for width in (16, 32, 64)
        if width != base.examples.width
    ]


GRIDS = {"paper": paper_conditions}
"""Name → conditions of a base and another engine."""


def find_conditions(
    name: str, base: study.Study, other_engine: str, parts: Sequence[str] = ()
) -> list[Condition]:
    """The conditions of a grid, the base always among them.

    Args:
        name: name in GRIDS.
        base: the study that is varied.
        other_engine: a second engine, to explain and to judge; empty = none.
        parts: only these parts, or conditions by name; empty = all.

    Raises:
        UsageError: no grid, part or condition has such a name, or the base stops judging early.
    """
    if name not in GRIDS:
        raise UsageError(f"no grid is named: {one_line(name)}", nearest(name, GRIDS))
    if base.score.until_sure:
        raise UsageError(
            "a grid compares verdicts on the same windows, and `until_sure` leaves some out",
            "set it to 0 in [score]",
        )
    # With another engine or without, every condition has the same place.
    every = enumerate(GRIDS[name](base, other_engine or "another engine"))
    placed = [row._replace(ordinal=ordinal) for ordinal, row in every]
    has_other = other_engine not in ("", base.engine.model)
    found = [row for row in placed if has_other or not (row.explained_by or row.judged_by)]
    known = dict.fromkeys([each for row in found for each in (row.part, row.name)])
    for part in parts:
        if part not in known:
            raise UsageError(
                f"no part of the grid is named: {one_line(part)}", nearest(part, known)
            )
    if not parts:
        return found
    return [row for row in found if row.name == BASE or row.part in parts or row.name in parts]
