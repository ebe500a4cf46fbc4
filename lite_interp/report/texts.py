"""Texts and numbers as a page gets them: nothing hidden, nothing endless, four digits.

Whatever stands in a results file may have been made to deceive or to break a page. Markup is no
danger, since the page writes texts as text; what is left is characters that nobody sees, or that
turn the order of others round, and texts without end.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lite_interp.render import NEWLINE
from lite_interp.score_lines import number

LONGEST_TOKEN = 120
"""Characters of one token that are shown."""
LONGEST_TEXT = 4000
"""Characters of any other text that are shown."""
JOINERS = "\u200c\u200d"
"""Invisible, but without them emoji and several scripts are written wrongly."""


def visible(text: object, longest: int = LONGEST_TEXT) -> str:
    """A text in which every character is seen, cut where it is too long, with a note.

    Line breaks become `↵`, tabs `⇥`, other control characters their pictures (`␀`, `␛`), and what
    has no width, or turns the direction of writing, its number: `⟨U+202E⟩`.
    """
    whole = str(text)
    cut = whole[:longest]
    if not cut.isprintable():
        cut = re.sub(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", NEWLINE, cut)
        cut = "".join(map(_seen, cut))
    return cut if len(whole) <= longest else f"{cut}… [cut: {len(whole):,} characters]"


def _seen(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\ufffd"
    if category not in ("Cc", "Cf") or character in JOINERS:
        return character
    if character == "\t":
        return "⇥"
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"


def token_text(token: object) -> str:
    """A token, made visible; most are met again and again."""
    text = str(token)
    return _short_token(text) if len(text) <= LONGEST_TOKEN else visible(text, LONGEST_TOKEN)


@lru_cache(1 << 16)
def _short_token(text: str) -> str:
    return visible(text, LONGEST_TOKEN)


def maybe(text: object) -> str | None:
    """A visible text, or None."""
    return None if text is None else visible(text)


def compact(value: Any) -> float | int | None:
    """A number with four significant digits, of an estimate its first; None if it is none.

    Whole numbers stay as they are.
    """
    plain = number(value)
    if not math.isfinite(plain):
        return None
    found = plain if plain == int(plain) else float(f"{plain:.4g}")
    return int(found) if found == int(found) else found


def numbers(values: Any) -> list[float | int | None]:
    """Numbers, each compact; empty for what is no list."""
    return [compact(value) for value in values] if isinstance(values, (list, tuple)) else []


def pairs(items: Any) -> list[list[Any]]:
    """[text or latent, number] pairs, made visible and compact; what is no pair is left out."""
    if not isinstance(items, (list, tuple)):
        return []
    return [
        [first if type(first) is int else token_text(first), compact(second)]
        for first, second in (each for each in items if _is_pair(each))
    ]


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2


def words(items: Any) -> list[str]:
    """Texts, made visible; empty for what is no list."""
    return [visible(item) for item in items] if isinstance(items, (list, tuple)) else []


def flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """Nested JSON as lines of a dotted name and a text, in order."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        yield visible(name), visible(", ".join(map(str, value)))
    elif value not in (None, {}):
        yield visible(name), visible(value)
