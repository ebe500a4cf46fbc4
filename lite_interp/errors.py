"""What can go wrong because of something the user can mend.

    LiteInterpError             one line, and a hint that mends it; exit code 1
    ├── UsageError              a name, option or value that does not exist; exit code 2
    ├── CorpusError             no text to read, or not readable as asked
    ├── SubjectError            a folder or file that is no language model, or no such hookpoint
    ├── CoderError              a sparse coder that cannot be read, or does not fit its subject
    ├── EngineError             a GGUF file that cannot be used, or is too small for a prompt
    ├── EmbedderError           a folder or file without a sentence-embedding model that can be run
    ├── ModelFileError          a model that is not installed, or whose bytes are wrong
    └── ResultsError            a results file that cannot be opened, read or written; exit code 4

A model's bad answer is data (`failure = "…"`), never an exception. A bug is a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LiteInterpError(Exception):
    """A mistake the user can mend: one line, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        """Say what is wrong, and what mends it."""
        super().__init__(message)
        self.hint = hint


class UsageError(LiteInterpError):
    """A name, option or value that does not exist."""

    exit_code = 2


class CorpusError(LiteInterpError):
    """No text to read, or not readable as asked."""


class SubjectError(LiteInterpError):
    """A folder or file that is no language model, or has no such hookpoint."""


class CoderError(LiteInterpError):
    """A sparse coder that cannot be read, or does not fit its subject."""


class EngineError(LiteInterpError):
    """A GGUF file that cannot be used, or a context too small for a prompt."""


class EmbedderError(LiteInterpError):
    """A folder or file that holds no sentence-embedding model, or one that cannot be run."""


class ModelFileError(LiteInterpError):
    """A model that is not installed, or whose bytes are not what they should be."""


class ResultsError(LiteInterpError):
    """A results file that cannot be opened, read or written."""

    exit_code = 4


def one_line(text: object) -> str:
    """A text made fit for an error line: control characters and line breaks become spaces."""
    return "".join(character if character.isprintable() else " " for character in str(text)).strip()


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names what the user may have meant, or all there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"`{one_line(found)}`" for found in close) + "?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"there is: {one_line(shown)}" if names else "there is none"
