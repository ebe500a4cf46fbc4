"""Where else in a subject a sparse coder may belong: the neighbours of a hookpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lite_interp.errors import SubjectError
from lite_interp.records import Hookpoint
from lite_interp.sae import SparseCoder
from lite_interp.subject import Subject

Pair = tuple[Hookpoint, Hookpoint]
"""What is read, and what is written; of an autoencoder the same."""

CHILDREN = ("mlp", "self_attn", "attn", "attention")
"""Parts of a decoder layer where an architecture's names are not known."""


def layer_of(name: str) -> int | None:
    """The decoder layer that a hookpoint's name, in any spelling, means; None if it has none."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def canonical(point: Hookpoint, subject: Subject) -> Hookpoint:
    """One name for one tensor: the input of a layer is the output of the layer before."""
    found = re.fullmatch(re.escape(subject.modules.layers) + r"\.(\d+)", point.module)
    if found and point.side == "input" and int(found[1]):
        return Hookpoint(f"{subject.modules.layers}.{int(found[1]) - 1}", "output")
    return point


def points_of(layer: int, subject: Subject) -> list[Hookpoint]:
    """Every hookpoint of a layer that has a name, by `canonical`; none without such a layer."""
    modules = subject.modules
    block = f"{modules.layers}.{layer}"
    if not 0 <= layer < subject.n_layers or block not in modules.names:
        return []
    found = [Hookpoint(block, "input"), Hookpoint(block, "output")]
    for child, side in modules.points.values():
        found.append(Hookpoint(f"{block}.{child}" if child else block, side))
    if len(modules.points) == 2:
        found += [
            Hookpoint(f"{block}.{child}", side)
            for child in CHILDREN
            for side in ("input", "output")
        ]
    named = (canonical(point, subject) for point in found if point.module in modules.names)
    return list(dict.fromkeys(named))


def near(own: Pair | None, layer: int | None, coder: SparseCoder, subject: Subject) -> list[Pair]:
    """The sites beside a site: all hookpoints of its layer, of the one before and the one after.

    A transcoder's both sides are of one layer, or one side is where it was.

    Args:
        own: the site; None = its name means nothing in the subject.
        layer: its layer; None = it has none.
        coder: the sparse coder: sites whose widths do not fit it are left out.
        subject: the subject.
    """
    layers = [] if layer is None else [layer, layer - 1, layer + 1]
    found: list[Pair] = []
    for each in layers:
        points = points_of(each, subject)
        if not coder.is_transcoder:
            found += [(point, point) for point in points]
            found += _mlp(each, subject)  # a config may not say that it is a transcoder
            continue
        found += [(a, b) for a in points for b in points if a != b]
        if own:
            found += [(point, own[1]) for point in points]
            found += [(own[0], point) for point in points]
    return fitting(found, own, coder, subject)


def everywhere(own: Pair | None, coder: SparseCoder, subject: Subject) -> list[Pair]:
    """The same site in every layer, and for an autoencoder the output of every layer."""
    found: list[Pair] = []
    for layer in range(subject.n_layers):
        block = f"{subject.modules.layers}.{layer}"
        if own:
            found.append((_moved(own[0], layer, subject), _moved(own[1], layer, subject)))
        elif coder.is_transcoder:
            found += _mlp(layer, subject)
        if not coder.is_transcoder:
            found.append((Hookpoint(block, "output"), Hookpoint(block, "output")))
    return fitting(found, own, coder, subject)


def fitting(
    pairs: Iterable[Pair], own: Pair | None, coder: SparseCoder, subject: Subject
) -> list[Pair]:
    """Those whose widths are the coder's, each once, without the site itself."""
    known = {(canonical(own[0], subject), canonical(own[1], subject))} if own else set()
    kept: list[Pair] = []
    for a, b in pairs:
        pair = canonical(a, subject), canonical(b, subject)
        if pair in known:
            continue
        known.add(pair)
        if width(a, subject) == coder.d_in and width(b, subject) == coder.d_out:
            kept.append(pair)
    return kept


def width(point: Hookpoint, subject: Subject) -> int | None:
    """Width of a hookpoint; None if it gives no activation for each token."""
    try:
        return subject.width(point)
    except SubjectError:
        return None


def _moved(point: Hookpoint, layer: int, subject: Subject) -> Hookpoint:
    """The same hookpoint of another layer; what belongs to no layer stays."""
    layers = re.escape(subject.modules.layers)
    return Hookpoint(
        re.sub(rf"^({layers})\.\d+", lambda found: f"{found[1]}.{layer}", point.module), point.side
    )


def _mlp(layer: int, subject: Subject) -> list[Pair]:
    """Into the MLP and what it adds to the stream: where most transcoders are."""
    try:
        reads = subject.resolve(f"blocks.{layer}.mlp.hook_in")
        return [(reads, subject.resolve(f"blocks.{layer}.hook_mlp_out"))]
    except SubjectError:
        return []
