"""Sequences over a shared prefix: what is kept between calls, and how items go through a model.

    sequence 0: the root      1: root + prefix      2, 3, …: prefix + one item each

An item's sequence is a copy of sequence 1 that is taken away whole. Nothing is ever trimmed back:
on models with a sliding window that gives wrong numbers silently, on recurrent ones it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import EngineFailure
from lite_interp.engine.plan import Limits, Part, plan

ROOT, PREFIX, FIRST = 0, 1, 2
"""Sequence ids: the root's, the prefix's, the first item's."""


class NoRoom(Exception):  # noqa: N818 - an answer of the model, handled here
    """A call found no free cells; the model's memory is as before."""


class Machine(Protocol):
    """A causal language model with a memory of several sequences."""

    def clear(self) -> None:
        """Forget all sequences."""
        ...

    def remove(self, sequence: int) -> None:
        """Forget one sequence, whole."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence begin with all of another one."""
        ...

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequences: NDArray[np.int32],
        wanted: NDArray[np.int8],
    ) -> NDArray[np.float32]:
        """Append tokens to sequences.

        Args:
            tokens: (n,) token ids.
            positions: (n,) position of each in its sequence.
            sequences: (n,) sequence of each.
            wanted: (n,) 1 where the logits are wanted.

        Returns:
            Logits (n_wanted, n_vocab), in the order of the tokens; good until the next call.
        """
        ...

    def close(self) -> None:
        """Free the model; closing twice is harmless."""
        ...


class Sequences:
    """Keeps a root and a prefix in a model's memory, and evaluates items behind them."""

    def __init__(self, machine: Machine, limits: Limits) -> None:
        """Begin with an empty memory.

        Args:
            machine: the model.
            limits: what one call can take.
        """
        self._machine = machine
        self.limits = limits
        self.n_evaluated = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._machine.clear()
        self._root: list[int] = []
        self._root_head: NDArray[np.float32] | None = None
        self._prefix: list[int] | None = None
        self._head: NDArray[np.float32] | None = None

    @property
    def prefix(self) -> list[int]:
        """Tokens of the prefix that is held."""
        return self._prefix or []

    def close(self) -> None:
        """Free the model; closing twice is harmless."""
        self._machine.close()

    def hold(self, prefix: Sequence[int], root: int) -> NDArray[np.float32] | None:
        """Have the prefix evaluated; what is kept already is not evaluated again.

        Only an equal prefix or root is kept: growing another one would give numbers that depend
        on what was asked before.

        Returns:
            (n_vocab,) logits behind the prefix; None if it is empty.
        """
        prefix = list(prefix)
        head = prefix[:root]
        try:
            if self._root != head:
                self.reset()
                self._root_head = self._append(ROOT, head, 0)
                self._root = head
            if self._prefix != prefix:
                self._prefix = None
                self._machine.remove(PREFIX)
                if head:
                    self._machine.copy(ROOT, PREFIX)
                tail = self._append(PREFIX, prefix[root:], root)
                self._head = self._root_head if tail is None else tail
                self._prefix = prefix
        except BaseException:
            self.reset()
            raise
        return self._head

    def evaluate(
        self,
        items: Sequence[Sequence[int]],
        wanted: Sequence[Sequence[int]],
        slots: Sequence[int] = (),
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        """Evaluate each item behind the prefix.

        Args:
            items: token ids.
            wanted: for each item, ascending, the positions whose logits are wanted.
            slots: for each item the sequence that it is left in, for going on; empty = none is.

        Yields:
            (item, positions (n,), logits (n, n_vocab) there), for an item as often as it takes
            calls; the logits are good until the next step of the iterator.
        """
        prefix = self._prefix or []
        calls = plan(len(prefix), [len(item) for item in items], wanted, self.limits)
        places = [np.asarray(each, np.int64) for each in wanted]
        try:
            for parts in calls:
                yield from self._call(parts, items, places, slots)
        except BaseException:
            self.reset()
            raise

    def step(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> NDArray[np.float32]:
        """Append one token to each of some sequences; logits (n, n_vocab) behind them."""
        ids = np.asarray(tokens, np.int32)
        try:
            return self._machine.decode(
                ids,
                np.asarray(positions, np.int32),
                np.asarray(sequences, np.int32),
                np.ones(len(ids), np.int8),
            )
        except NoRoom as error:
            self.reset()
            raise EngineFailure("no room for one more token of each answer") from error
        except BaseException:
            self.reset()
            raise

    def open(self, sequence: int) -> None:
        """Begin an item's sequence that has no tokens of its own yet."""
        self._machine.remove(sequence)
        if self._prefix:
            self._machine.copy(PREFIX, sequence)

    def release(self, sequence: int) -> None:
        """Take an item's sequence away."""
        self._machine.remove(sequence)

    def _append(
        self, sequence: int, tokens: list[int], position: int
    ) -> NDArray[np.float32] | None:
        """Append tokens to a reserved sequence; a copy of the logits behind the last one."""
        rows = None
        size = self.limits.n_batch
        for start in range(0, len(tokens), size):
            ids = np.asarray(tokens[start : start + size], np.int32)
            wanted = np.zeros(len(ids), np.int8)
            wanted[-1] = start + len(ids) == len(tokens)
            positions = np.arange(len(ids), dtype=np.int32) + np.int32(position + start)
            try:
                rows = self._machine.decode(ids, positions, np.full_like(ids, sequence), wanted)
            except NoRoom as error:
                raise EngineFailure("no room for the prefix") from error
            self.n_evaluated += len(ids)
        return None if rows is None else rows[-1].copy()

    def _call(
        self,
        parts: list[Part],
        items: Sequence[Sequence[int]],
        wanted: Sequence[NDArray[np.int64]],
        slots: Sequence[int],
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        n_prefix = len(self._prefix or [])
        places = [slots[p.item] if slots else FIRST + slot for slot, p in enumerate(parts)]
        for part, place in zip(parts, places, strict=True):
            if part.start == 0:
                self.open(place)
        stretches = [_within(wanted[p.item], p) for p in parts]
        marks = [
            np.isin(np.arange(part.start, part.stop), positions)
            for part, positions in zip(parts, stretches, strict=True)
        ]
        try:
            rows = self._machine.decode(
                _joined([items[p.item][p.start : p.stop] for p in parts]),
                _joined([range(n_prefix + p.start, n_prefix + p.stop) for p in parts]),
                np.repeat(np.asarray(places, np.int32), [p.stop - p.start for p in parts]),
                _joined(marks).astype(np.int8),
            )
        except NoRoom:
            for part, place in zip(parts, places, strict=True):
                if part.start == 0:
                    self._machine.remove(place)
            for half in _halves(parts):
                yield from self._call(half, items, wanted, slots)
            return
        row = 0
        for part, place, positions in zip(parts, places, stretches, strict=True):
            self.n_evaluated += part.stop - part.start
            if len(positions):
                yield part.item, positions, rows[row : row + len(positions)]
                row += len(positions)
            if part.stop == len(items[part.item]) and not slots:
                self._machine.remove(place)


def _within(positions: NDArray[np.int64], part: Part) -> NDArray[np.int64]:
    """Those of ascending positions that lie in a stretch."""
    first, last = np.searchsorted(positions, (part.start, part.stop))
    return positions[first:last]


def _joined(stretches: Sequence[Sequence[int] | range | NDArray]) -> NDArray[np.int32]:
    return np.concatenate([np.asarray(stretch, np.int32) for stretch in stretches])


def _halves(parts: list[Part]) -> list[list[Part]]:
    if len(parts) > 1:
        return [parts[: len(parts) // 2], parts[len(parts) // 2 :]]
    item, start, stop = parts[0]
    if stop - start < 2:
        raise EngineFailure("no room for one more token")
    middle = (start + stop) // 2
    return [[Part(item, start, middle)], [Part(item, middle, stop)]]
