"""Windows as text: with << marks >>, as rows of strength, on one line, safe for a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Window

OPEN, CLOSE = "<<", ">>"
NEWLINE = "↵"
INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, marks and symbols without a shape; a variation selector that makes an emoji is none."""
MOST_MARKS = 4
"""On one letter."""


def marked_tokens(values: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """(w,) which tokens are marked: those above `share` of the window's greatest activation.

    The token at the peak is always marked; in a silent window none is.
    """
    peak = values.max(initial=0.0)
    return (values > 0) & ((values > share * peak) | (values == peak))


def mark(tokens: Sequence[str], marked: Sequence[bool] | NDArray[np.bool_]) -> str:
    """The text with `<<` and `>>` around each run of marked tokens.

    A space that begins a run stays outside the marks, as people write it.
    """
    text, inside = "", False
    for token, is_marked in zip(tokens, marked, strict=True):
        if bool(is_marked) != inside:
            space = token[: len(token) - len(token.lstrip(" "))] if is_marked else ""
            text += space + OPEN if is_marked else CLOSE
            token = token[len(space) :]
            inside = bool(is_marked)
        text += token
    return text + CLOSE if inside else text


def marked_text(window: Window, share: float = 0.3) -> str:
    """A window on one line with its activating tokens marked."""
    return mark([one_row(token) for token in window.tokens], marked_tokens(window.values, share))


def plain_text(window: Window) -> str:
    """A window on one line, without marks."""
    return "".join(one_row(token) for token in window.tokens)


def one_row(text: str) -> str:
    """A text with line breaks made visible and control characters made harmless."""
    text = re.sub(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", NEWLINE, text).replace("\t", " ")
    return "".join(
        "�" if unicodedata.category(character) in ("Cc", "Cs") else character for character in text
    )


def terminal_safe(text: str) -> str:
    """A text that can move no cursor, and hides nothing: what cannot be seen is a dot.

    These are control, format and bidirectional characters, others that are as wide as nothing,
    and what is piled on a letter beyond what any language does.
    """
    if text.isascii() and text.isprintable():
        return text
    shown, n_marks = [], 0
    for character in one_row(text):
        kind = unicodedata.category(character)
        n_marks = n_marks + 1 if kind in ("Mn", "Me") else 0
        hidden = kind in ("Cc", "Cf", "Cs") or n_marks > MOST_MARKS or INVISIBLE.match(character)
        shown.append("·" if hidden else character)
    return "".join(shown)


def shortened(text: str, most: int) -> str:
    """The beginning of a text, and how much more there is."""
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}… (+{more:,} characters)"


def levels(values: NDArray[np.float32], greatest: float) -> NDArray[np.int64]:
    """(w,) strength 0..10: 0 is silent, 10 is the latent's greatest activation, rounded up."""
    if greatest <= 0:
        return np.zeros(len(values), np.int64)
    scaled = np.ceil(10 * values.astype(np.float64) / greatest - 1e-9)
    return np.clip(scaled, 0, 10).astype(np.int64)
