"""Which tokens go through the model together: a pure function of lengths and limits.

Numbers of a batched evaluation depend in their last bits on what is evaluated together. So the
plan must follow from the unit of work alone: a resumed run then repeats the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Part(NamedTuple):
    """A stretch of one item's tokens."""

    item: int
    """Index of the item."""
    start: int
    """First token of the stretch."""
    stop: int
    """Behind its last token."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call of the model can take."""

    n_batch: int
    """Tokens."""
    n_parallel: int
    """Items."""
    n_outputs: int
    """Positions whose logits are wanted."""
    n_cells: int
    """Tokens that all sequences hold together, the prefix included."""


def plan(
    n_prefix: int, lengths: Sequence[int], wanted_from: Sequence[int], limits: Limits
) -> list[list[Part]]:
    """Pack items into calls, in their order.

    Items that fit into one call share it with as many neighbours as fit. A longer one has calls
    of its own. An item without tokens has none. The caller has checked that the prefix and any
    single item fit into the cells.

    Args:
        n_prefix: tokens that all items share, evaluated already.
        lengths: (n,) tokens of each item.
        wanted_from: (n,) first position of each item whose logits are wanted.
        limits: what one call can take.

    Returns:
        For each call the stretches that it evaluates.
    """
    calls: list[list[Part]] = []
    n_tokens = n_outputs = 0
    room = min(limits.n_batch, limits.n_cells - n_prefix)
    open_call = False
    for item, (length, first) in enumerate(zip(lengths, wanted_from, strict=True)):
        wanted = max(0, length - first)
        if length == 0:
            continue
        if length > room or wanted > limits.n_outputs:
            calls += [[part] for part in _pieces(item, length, first, limits)]
            open_call = False
            continue
        if not (
            open_call
            and n_tokens + length <= room
            and n_outputs + wanted <= limits.n_outputs
            and len(calls[-1]) < limits.n_parallel
        ):
            calls.append([])
            n_tokens = n_outputs = 0
            open_call = True
        calls[-1].append(Part(item, 0, length))
        n_tokens += length
        n_outputs += wanted
    return calls


def _pieces(item: int, length: int, first: int, limits: Limits) -> list[Part]:
    """Cut a long item: each piece within the limits on tokens and wanted positions."""
    pieces: list[Part] = []
    start = 0
    while start < length:
        stop = min(length, start + limits.n_batch, max(start, first) + limits.n_outputs)
        pieces.append(Part(item, start, stop))
        start = stop
    return pieces


def groups(n_root: int, lengths: Sequence[int], n_new: int, limits: Limits) -> list[list[int]]:
    """Which prompts are answered side by side: neighbours, as many as the cells hold.

    Args:
        n_root: tokens that all prompts share.
        lengths: (n,) tokens of each prompt behind the root.
        n_new: longest answer, tokens.
        limits: what the model can take.

    Returns:
        Indices of prompts, group by group, in their order.
    """
    found: list[list[int]] = []
    used = 0
    for index, length in enumerate(lengths):
        need = length + n_new
        fits = n_root + used + need <= limits.n_cells
        if not found or len(found[-1]) == limits.n_parallel or not fits:
            found.append([])
            used = 0
        found[-1].append(index)
        used += need
    return found
