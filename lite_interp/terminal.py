"""Messages and bars on stderr, so that stdout holds nothing but data; text in cells."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.containers import Lines
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lite_interp.errors import one_line

Item = TypeVar("Item")

RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
WORTH_SAYING = 2.0
"""Seconds after which a log file is told of work that nothing is stored of."""
ISOLATE, END_ISOLATE = "\u2068", "\u2069"


class Screen(Console):
    """Where pages and messages go: text is text, never markup nor the name of an emoji.

    A pipe that nobody reads any more is an error, which the command line ends quietly.
    """

    def __init__(self, stderr: bool = False) -> None:
        """Write to stdout or stderr."""
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Tell the command line; Rich would end the program, and say that something is wrong."""
        raise BrokenPipeError


class CellText(Text):
    """A text beside others on its line, in a cell of a table.

    Terminals that know right-to-left letters put a whole line in order; without a fence numbers
    and cells beside such a text would change their places. So each line with such letters is
    isolated, on terminals only: files and pipes hold the text as it is.
    """

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        """The lines that the text takes, each isolated if need be."""
        lines = super().wrap(console, width, **options)
        if not (console.is_terminal and RIGHT_TO_LEFT.search(self.plain)):
            return lines
        return Lines(
            Text.assemble(ISOLATE, line, END_ISOLATE) if RIGHT_TO_LEFT.search(line.plain) else line
            for line in lines
        )


class ByteBar:
    """A bar of bytes that are read or written, which nobody sees where there is no terminal."""

    def __init__(self, bar: Progress, label: str, total: int) -> None:
        """Begin at 0 of `total` bytes."""
        self._bar, self._task = bar, bar.add_task(label, total=total)

    def add(self, n_bytes: int) -> None:
        """So many more are done."""
        self._bar.advance(self._task, n_bytes)

    def reach(self, n_bytes: int) -> None:
        """So many are done in all."""
        self._bar.update(self._task, completed=n_bytes)


class Terminal:
    """Tells a person what happens; in a log file, a line at the end of each stage."""

    def __init__(self) -> None:
        """Write to stderr."""
        self.console = Screen(stderr=True)

    def say(self, text: str) -> None:
        """One line, cleaned of what could move a cursor."""
        self.console.print(one_line(text), soft_wrap=True)

    def watch(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """The items, with a bar and the time left; only what takes seconds is said at its end."""
        started = time.monotonic()
        with self._bar(MofNCompleteColumn()) as bar:
            yield from bar.track(items, total=total, description=label)
        seconds = time.monotonic() - started
        if seconds > WORTH_SAYING:
            self.say(f"{label}: {total} in {duration(seconds)}")

    def track(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """The items, with a bar and the time left; nothing to do is said in one line."""
        if not total:
            self.say(f"{label}: nothing left to do")
            return
        started = time.monotonic()
        with self._bar(MofNCompleteColumn()) as bar:
            task = bar.add_task(label, total=total)
            for item in items:
                bar.advance(task)
                yield item
        self.say(f"{label}: {total} in {duration(time.monotonic() - started)}")

    @contextmanager
    def reading(self, label: str, n_bytes: int) -> Iterator[ByteBar]:
        """A bar of bytes with the time left."""
        with self._bar(DownloadColumn()) as bar:
            yield ByteBar(bar, label, n_bytes)

    def _bar(self, count: ProgressColumn) -> Progress:
        """A bar that goes when it is done, and never comes where nobody looks."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            count,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        hidden = not self.console.is_terminal
        return Progress(*columns, console=self.console, transient=True, disable=hidden)


def duration(seconds: float) -> str:
    """A span of time for people."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.0f} s"
