"""Work that is split over processes or machines; `merge` puts the files of all parts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

Part = tuple[int, int]
"""Which part of the work, from 1, and of how many."""
EVERYTHING: Part = (1, 1)


def part_of(items: Sequence[Item], part: Part, group: int = 1) -> list[Item]:
    """The items of one part: groups of them are dealt out in turn, and no group is torn apart."""
    index, n = part
    return [item for place, item in enumerate(items) if place // group % n == index - 1]
