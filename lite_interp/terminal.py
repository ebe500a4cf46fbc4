"""Messages and bars on stderr, so that stdout holds nothing but data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lite_interp.errors import one_line

Item = TypeVar("Item")


class Terminal:
    """Tells a person what happens; in a log file, a line at the end of each stage."""

    def __init__(self) -> None:
        """Write to stderr."""
        self.console = Console(stderr=True, highlight=False, markup=False)

    def say(self, text: str) -> None:
        """One line, cleaned of what could move a cursor."""
        self.console.print(one_line(text), soft_wrap=True)

    def track(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """The items, with a bar and the time left; nothing to do is said in one line."""
        if not total:
            self.say(f"{label}: nothing left to do")
            return
        started = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        shown = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as bar:
            task = bar.add_task(label, total=total)
            for item in items:
                bar.advance(task)
                yield item
        self.say(f"{label}: {total} in {duration(time.monotonic() - started)}")


def duration(seconds: float) -> str:
    """A span of time for people."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.0f} s"
