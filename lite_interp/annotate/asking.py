"""Ask in a terminal, question after question; each answer is in the file before the next comes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lite_interp.annotate.answering import YES_NO, answers, checked_answer, make_rating
from lite_interp.annotate.keeping import keep_rating, open_to_answer, open_to_ask
from lite_interp.annotate.pool import question_id
from lite_interp.annotate.showing import question_record
from lite_interp.annotate.sitting import Sitting, Turn, next_question, take_back
from lite_interp.annotate.terminal_page import question_page
from lite_interp.db.caches import CacheInfo
from lite_interp.errors import UsageError
from lite_interp.records import Question

UNDO, SKIP, QUIT = "u", "s", "q"
KEYS = "answer, u = undo, s = skip, q = quit: "
WORDS = {"y": 1, "yes": 1, "n": 0, "no": 0}
"""May be typed instead of the numbers, where these are the answers."""

Read = Callable[[], str]
"""Reads a line; empty at the end of the input."""


def ask(
    path: Path, cache: CacheInfo, sitting: Sitting, read: Read, console: Console
) -> Iterator[Turn]:
    """Show and ask until all is answered or the rater ends it; yields where it stands.

    What is skipped comes again when nothing else is left. An answer that is taken back is asked
    again at once. Ctrl-C ends it anywhere, and nothing that was answered is lost.

    Args:
        path: the results file; it is open only for moments.
        cache: whose latents.
        sitting: who is asked what.
        read: where answers come from.
        console: where questions are shown.

    Raises:
        ResultsError: an answer cannot be written.
    """
    later: list[str] = []
    again: Question | None = None
    while True:
        with open_to_ask(path) as db:
            turn = next_question(db, cache, sitting, later)
            question = again or turn.question
            record = question_record(db, cache, question) if question else {}
        yield turn
        if question is None:
            return
        place = f"{turn.n_answered + 1:,} of {turn.n_questions:,}"
        console.print(question_page(record, place, console))
        started = time.monotonic()
        said = _read_answer(read, question, console)
        again = None
        if said == QUIT:
            return
        if said == UNDO:
            with open_to_answer(path) as db:
                again = take_back(db, cache, sitting)
            if again is None:
                console.print(Text("there is no answer to take back", "italic"))
                again = question
        elif said == SKIP:
            name = question_id(question)
            later = [each for each in later if each != name] + [name]
        else:
            now = datetime.datetime.now(datetime.timezone.utc)
            seconds = time.monotonic() - started
            if not keep_rating(path, make_rating(sitting.rater, question, said, seconds, now)):
                console.print(Text("answered elsewhere meanwhile: that answer stays", "italic"))


def _read_answer(read: Read, question: Question, console: Console) -> int | str:
    """An answer, or one of the keys; asked again until it is one."""
    while True:
        console.print(Text(KEYS), end="")
        line = read()
        if not console.is_terminal:  # there the reader's own line break is seen
            console.print()
        word = line.strip().lower()
        if not line or word == QUIT:
            return QUIT
        if word in (UNDO, SKIP):
            return word
        try:
            return checked_answer(question, _number(question, word))
        except UsageError as error:
            console.print(Text(f"{error} ({error.hint})", "italic"))


def _number(question: Question, word: str) -> int | str:
    """What was typed, as a number if it is a short one."""
    if word in WORDS and answers(question) == YES_NO:
        return WORDS[word]
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 4 else word
