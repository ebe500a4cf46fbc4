"""Texts in the cells of tables that a spreadsheet may open.

A text that a spreadsheet would run as a formula gets a `'` before it. What would be taken for such
a text gets one too, so that the original can always be had back:

    plain_cell(safe_cell(text)) == text        for every text
    safe_cell(text) == text                    if no spreadsheet would run it
"""

from __future__ import annotations

import re

_RUN = "(?:[\\s\ufeff]*[=+\\-@＝＋－＠]|[\t\r\n])"
_DANGEROUS = re.compile(f"'*{_RUN}")
_MADE_SAFE = re.compile(f"''*{_RUN}")


def safe_cell(text: str) -> str:
    """The text, with a `'` before it if a spreadsheet might run it."""
    return "'" + text if _DANGEROUS.match(text) else text


def plain_cell(text: str) -> str:
    """What `safe_cell` was given."""
    return text[1:] if _MADE_SAFE.match(text) else text
