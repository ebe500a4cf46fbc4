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


def changed(base: study.Study, changes: Changes) -> study.Study:
    """A study with some settings of its sections changed."""
    update = {}
    for section, settings in changes.items():
        own = getattr(base, section)
        update[section] = type(own).model_validate({**own.model_dump(), **settings})
    return base.model_copy(update=update)


def paper_conditions(base: study.Study, other_engine: str) -> list[Condition]:
    """The conditions of the grid `paper`, those that say most first."""
    n = base.examples.n_shown
    told = f"{base.examples.sampler}, {n} windows of {base.examples.width} tokens"
    no_null = {"score": {"n_controls": 0}}
    found = [
        Condition(
            BASE,
            BASE,
            f"llm, small prompt, {told}",
            {"explain": {"explainers": ("llm",)}},
            against=(),
        )
    ]

    def add(name: str, part: str, label: str, *against: str, **sections: Mapping[str, Any]) -> None:
        changes = {"explain": {"explainers": ("llm",)}, **no_null, **sections}
        found.append(Condition(name, part, label, changes, against=(*against, BASE)))

    def explainer(name: str, label: str, *against: str) -> None:
        add(name, "explainer", label, *against, explain={"explainers": (name,)})

    explainer("token_list", "token list: no engine")
    explainer("revise", "revise: its mistakes shown", "token_list")
    explainer("input+output", "input+output: steering shown too", "token_list")
    for sampler in ("top", "random", "mix"):
        if sampler != base.examples.sampler:
            add(sampler, "sampling", f"{sampler} {n}", examples={"sampler": sampler})
    for number in (10, 20, 40, 60):
        if number != n:
            add(f"n{number}", "number", f"{number} windows", examples={"n_shown": number})
    paper = {"explainers": ("llm",), "prompt": "explain/paper"}
    add("paper", "prompt", "paper prompt, activations shown", explain=paper)
    for kind, label in (("no_activations", "no activations"), ("thoughts", "chain of thought")):
        other = {**paper, "prompt": f"explain/paper_{kind}"}
        add(f"paper_{kind}", "prompt", f"paper prompt, {label}", "paper", explain=other)
    if other_engine:
        plain = {"explain": {"explainers": ("llm",)}}
        found += [
            Condition(
                "explained_by_other",
                "engine",
                f"explained by {other_engine}",
                {**plain, **no_null},
                other_engine,
            ),
            Condition(
                "judged_by_other",
                "engine",
                f"judged by {other_engine}",
                plain,
                judged_by=other_engine,
            ),
        ]
    random = {"coder": {"random": True}, "explain": {"explainers": ("llm",)}}
    found.append(Condition("random_coder", "floor", "a random coder", random))
    explainer("contrastive", "contrastive: look-alikes shown")
    explainer("best_of", "best of 4 drafts")
    for width in (16, 64):
        if width != base.examples.width:
            add(f"width{width}", "width", f"windows of {width} tokens", examples={"width": width})
    return found


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
        UsageError: no grid, part or condition has such a name.
    """
    if name not in GRIDS:
        raise UsageError(f"no grid is named: {one_line(name)}", nearest(name, GRIDS))
    found = GRIDS[name](base, other_engine)
    known = dict.fromkeys([each for row in found for each in (row.part, row.name)])
    for part in parts:
        if part not in known:
            raise UsageError(
                f"no part of the grid is named: {one_line(part)}", nearest(part, known)
            )
    if not parts:
        return found
    kept = [row for row in found if row.name == BASE or row.part in parts or row.name in parts]
    names = {row.name for row in kept}
    return [row._replace(against=tuple(a for a in row.against if a in names)) for row in kept]
