"""What a user types, as a query of FTS5 that cannot fail."""

from __future__ import annotations

from lite_interp.errors import UsageError, one_line

MOST_CHARACTERS = 1000
"""Of a text to search for."""


def plain_query(text: str) -> str:
    """The text on one line, for an embedder.

    Raises:
        UsageError: it is too long, or there is no word in it.
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"the text to search for is too long: {len(text):,} characters",
            f"a few words are enough; at most {MOST_CHARACTERS:,} characters",
        )
    plain = " ".join(one_line(text).split())
    if not any(map(str.isalnum, plain)):
        raise UsageError(
            f"no word to search for: {plain or 'nothing'}", "a word has letters or digits"
        )
    return plain


def words_query(text: str) -> str:
    """An FTS5 query for what has all the words of a text, in any order.

    A word with `*` at its end stands for all words that begin so. Nothing else has a meaning:
    each word is quoted, so operators, brackets and columns are words like others. A word with
    signs inside, such as `co-occur`, is found where its parts stand in a row.

    Raises:
        UsageError: the text is too long, or there is no word in it.
    """
    return " ".join(
        _quoted(word) for word in plain_query(text).split() if any(map(str.isalnum, word))
    )


def _quoted(word: str) -> str:
    bare = word.rstrip("*")
    return '"' + bare.replace('"', '""') + '"' + (" *" if bare != word else "")
