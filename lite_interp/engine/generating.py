"""Many answers side by side: when one is finished, the next prompt takes its place.

    waiting ─admitted─▶ prompt evaluated ─▶ a token for each running answer, again and again ─▶ done

The order of prompts and the lengths of the answers decide what runs together; so a call gives
the same answers whenever it is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import EngineFailure
from lite_interp.engine.plan import admitted
from lite_interp.engine.sequences import FIRST, Sequences
from lite_interp.engine.writing import Writer


class Prompts(NamedTuple):
    """What is to be answered."""

    shared: Sequence[int]
    """Tokens that all prompts begin with."""
    tails: Sequence[Sequence[int]]
    """Tokens of each prompt behind those."""
    n_new: int
    """Longest answer, tokens."""


class _Running(NamedTuple):
    """An answer that is being written."""

    index: int
    """Number of its prompt."""
    sequence: int
    """Sequence that holds it."""
    token: int
    """Token that was drawn and is not evaluated yet."""


def write_answers(sequences: Sequences, prompts: Prompts, writers: Sequence[Writer]) -> None:
    """Let each writer write its answer, as many side by side as there is room for.

    Raises:
        EngineFailure: the model broke down; nothing is left in its memory.
    """
    limits = sequences.limits
    needs = [len(tail) + prompts.n_new for tail in prompts.tails]
    waiting = [index for index, writer in enumerate(writers) if not writer.done]
    free = list(range(FIRST, FIRST + limits.n_parallel))
    running: list[_Running] = []
    try:
        while waiting or running:
            used = len(prompts.shared) + sum(needs[each.index] for each in running)
            begun = admitted(waiting, len(free), used, needs, limits)
            del waiting[: len(begun)]
            running += _begin(sequences, prompts, writers, begun, free)
            running = _released(sequences, writers, running, free)
            if running:
                running = _step(sequences, prompts, writers, running)
                running = _released(sequences, writers, running, free)
    except BaseException:
        sequences.reset()
        raise


def _begin(
    sequences: Sequences,
    prompts: Prompts,
    writers: Sequence[Writer],
    begun: Sequence[int],
    free: list[int],
) -> list[_Running]:
    """Evaluate prompts and draw the first token of each answer."""
    if not begun:
        return []
    head = sequences.hold(prompts.shared, len(prompts.shared))
    started = time.perf_counter()
    tails = [prompts.tails[index] for index in begun]
    slots = [free.pop(0) for _ in begun]
    tokens: dict[int, int] = {}
    for number, tail in enumerate(tails):
        if not tail and head is not None:
            sequences.open(slots[number])
            tokens[number] = _draw(writers[begun[number]], head)
    ends = [[len(tail) - 1] if tail else [] for tail in tails]
    for number, _, rows in sequences.evaluate(tails, ends, slots):
        tokens[number] = _draw(writers[begun[number]], rows[-1])
    spent = time.perf_counter() - started
    n_tokens = sum(map(len, tails)) or 1
    for index, tail in zip(begun, tails, strict=True):
        writers[index].n_prompt += len(tail)
        writers[index].seconds += spent * len(tail) / n_tokens
    return [_Running(begun[n], slots[n], tokens[n]) for n in range(len(begun))]


def _step(
    sequences: Sequences, prompts: Prompts, writers: Sequence[Writer], running: list[_Running]
) -> list[_Running]:
    """Evaluate the token that each answer drew last, and draw the next one."""
    started = time.perf_counter()
    places = [
        len(prompts.shared) + len(prompts.tails[each.index]) + writers[each.index].n_tokens - 1
        for each in running
    ]
    rows = sequences.step(
        [each.token for each in running], places, [each.sequence for each in running]
    )
    after = [
        each._replace(token=_draw(writers[each.index], row))
        for each, row in zip(running, rows, strict=True)
    ]
    spent = time.perf_counter() - started
    for each in running:
        writers[each.index].seconds += spent / len(running)
    return after


def _released(
    sequences: Sequences, writers: Sequence[Writer], running: list[_Running], free: list[int]
) -> list[_Running]:
    """Those that go on; the sequences of the others are free again."""
    for each in running:
        if writers[each.index].done:
            sequences.release(each.sequence)
            free.append(each.sequence)
    free.sort()
    return [each for each in running if not writers[each.index].done]


def _draw(writer: Writer, logits: NDArray[np.float32]) -> int:
    if not np.isfinite(logits).all():
        raise EngineFailure("the model's numbers are not finite")
    return writer.write(logits)
