"""What a unit of work cost: tokens and seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lite_interp.engine import Engine
from lite_interp.records import Usage


class Meter:
    """Tokens and seconds since it was made."""

    def __init__(self, engine: Engine | None) -> None:
        """Start measuring."""
        self._engine = engine
        self._evaluated = engine.n_evaluated if engine else 0
        self._written = engine.n_written if engine else 0
        self._started = time.perf_counter()

    def read(self) -> Usage:
        """What it cost up to now."""
        return Usage(
            self._engine.n_evaluated - self._evaluated if self._engine else 0,
            self._engine.n_written - self._written if self._engine else 0,
            time.perf_counter() - self._started,
        )


def summed(*parts: Usage) -> Usage:
    """What several units cost together."""
    return Usage(
        sum(part.prompt_tokens for part in parts),
        sum(part.output_tokens for part in parts),
        sum(part.seconds for part in parts),
    )


def shared_out(whole: Usage, parts: Sequence[Usage]) -> list[Usage]:
    """What each of several units cost that were computed side by side; together it is the whole.

    Tokens that none of them names are shared ones, and go to the first. Time goes by the time
    that each names, or in equal parts.
    """
    named = sum(part.seconds for part in parts)
    shared = whole.prompt_tokens - sum(part.prompt_tokens for part in parts)
    return [
        Usage(
            part.prompt_tokens + (shared if number == 0 else 0),
            part.output_tokens,
            whole.seconds * (part.seconds / named if named else 1 / len(parts)),
        )
        for number, part in enumerate(parts)
    ]
