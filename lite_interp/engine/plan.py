"""Which tokens go through the model together: a pure function of lengths and limits.

Numbers of a batched evaluation depend in their last bits on what is evaluated together. So the
plan must follow from the unit of work alone: a resumed run then repeats the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


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
    n_prefix: int, lengths: Sequence[int], wanted: Sequence[Sequence[int]], limits: Limits
) -> list[list[Part]]:
    """Pack items into calls, in their order.

    Items that fit into one call share it with as many neighbours as fit. A longer one has calls
    of its own. An item without tokens has none. The caller has checked that the prefix and any
    single item fit into the cells.

    Args:
        n_prefix: tokens that all items share, evaluated already.
        lengths: (n,) tokens of each item.
        wanted: for each item, ascending, the positions whose logits are wanted.
        limits: what one call can take.

    Returns:
        For each call the stretches that it evaluates.
    """
    calls: list[list[Part]] = []
    n_tokens = n_outputs = 0
    room = min(limits.n_batch, limits.n_cells - n_prefix)
    open_call = False
    for item, (length, places) in enumerate(zip(lengths, wanted, strict=True)):
        if length == 0:
            continue
        if length > room or len(places) > limits.n_outputs:
            calls += [[part] for part in _pieces(item, length, places, limits)]
            open_call = False
            continue
        if not (
            open_call
            and n_tokens + length <= room
            and n_outputs + len(places) <= limits.n_outputs
            and len(calls[-1]) < limits.n_parallel
        ):
            calls.append([])
            n_tokens = n_outputs = 0
            open_call = True
        calls[-1].append(Part(item, 0, length))
        n_tokens += length
        n_outputs += len(places)
    return calls


def _pieces(item: int, length: int, places: Sequence[int], limits: Limits) -> list[Part]:
    """Cut a long item: each piece within the limits on tokens and wanted positions."""
    pieces: list[Part] = []
    start = 0
    while start < length:
        too_many = int(np.searchsorted(places, start)) + limits.n_outputs
        stop = min(length, start + limits.n_batch)
        if too_many < len(places):
            stop = min(stop, places[too_many])
        pieces.append(Part(item, start, stop))
        start = stop
    return pieces


def admitted(
    waiting: Sequence[int], n_free: int, n_used: int, needs: Sequence[int], limits: Limits
) -> list[int]:
    """Which of the waiting prompts begin to be answered now: in their order, while there is room.

    Args:
        waiting: indices of the prompts that wait.
        n_free: sequences that are free.
        n_used: tokens that are held or promised, those that all prompts share included.
        needs: for every prompt, tokens of its own and of its longest answer.
        limits: what the model can take.

    Returns:
        Indices, the first of those that wait.
    """
    found: list[int] = []
    for index in waiting:
        if len(found) == n_free or n_used + needs[index] > limits.n_cells:
            break
        found.append(index)
        n_used += needs[index]
    return found
