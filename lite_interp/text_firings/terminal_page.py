"""Firings on a text for a terminal; every text in it may be hostile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lite_interp.db.told import Told
from lite_interp.render import one_row, shortened, terminal_safe
from lite_interp.terminal import CellText
from lite_interp.text_firings.reading import LatentFirings, TextFirings
from lite_interp.text_firings.rows import percent

N_LISTED = 20
"""Latents that are listed."""
N_TOKENS = 5
"""Tokens that are listed of a latent."""
WORDS = {"token": 14, "fires here on": 24}
"""Columns of words → cells, at most."""
MOST_CHARACTERS = 400
"""Of an explanation or token."""
SPACE, NOTHING = "␣", "–"
"""Stand for a token of spaces, and for one that holds a part of a character."""


def terminal_page(found: TextFirings, told: Mapping[int, Told], top: int) -> RenderableType:
    """Tokens with their strongest latents; then latents with the tokens they fire on.

    Args:
        found: what fires.
        told: the latents that are shown.
        top: latents of a token, at most.
    """
    every = found.by_latent()
    parts: list[RenderableType] = [_tokens(found, told, top), "", _latents(found, told, every)]
    if len(every) > N_LISTED:
        parts.append(Text(f"… and {len(every) - N_LISTED:,} more latents: --json", "dim"))
    return Group(*parts, Text(_left_out(found), "dim"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Text]]) -> Table:
    """Rows whose last cell is an explanation, which has the room that the others leave."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False, expand=True)
    for place, head in enumerate(heads):
        widest = max(cell_len(head), *(row[place].cell_len for row in rows))
        words = head in WORDS
        table.add_column(
            head,
            justify="left" if words else "right",
            width=min(widest, WORDS[head]) if words else widest,
            no_wrap=True,
            overflow="ellipsis",
        )
    table.add_column("explanation", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    return table


def _tokens(found: TextFirings, told: Mapping[int, Told], top: int) -> Table:
    rows: list[list[Text]] = []
    several = bool(found.contexts[-1])
    for number, token in enumerate(found.tokens):
        name = str(found.positions[number])
        name = f"{found.contexts[number]}:{name}" if several else name
        head = [Text(name, "dim"), CellText(_token(token), "bold")]
        fired = found.at(number)[:top]
        if not fired:
            why = "special: left out" if found.special[number] else "nothing fires"
            rows.append([*head, *[Text("")] * 3, Text(why, "dim italic")])
        for latent, value in fired:
            rows.append([*head, *_numbers(latent, value, told[latent]), explained(told[latent])])
            head = [Text(""), Text("")]
    return _table(("pos", "token", "latent", "value", "max"), rows)


def _latents(
    found: TextFirings, told: Mapping[int, Told], every: Sequence[LatentFirings]
) -> Table | Text:
    rows = []
    for each in every[:N_LISTED]:
        own = told[each.latent]
        numbers = _numbers(each.latent, each.peak, own)
        words = CellText(strongest_tokens(found, each))
        rows.append([*numbers, Text(str(len(each.tokens))), words, explained(own)])
    if not rows:
        return Text("nothing fires", "italic")
    return _table(("latent", "peak", "max", "n", "fires here on"), rows)


def _numbers(latent: int, value: float, told: Told) -> list[Text]:
    return [Text(str(latent)), Text(f"{value:.3g}"), Text(percent(value, told))]


def strongest_tokens(found: TextFirings, each: LatentFirings) -> str:
    """The tokens on which a latent fires most, each once with how often it does."""
    strongest = each.tokens[np.argsort(-each.values, kind="stable")].tolist()
    counts = Counter(_token(found.tokens[token]) for token in strongest)
    return "  ".join(
        f"{token} ×{n}" if n > 1 else token for token, n in list(counts.items())[:N_TOKENS]
    )


def explained(told: Told) -> Text:
    """A latent's explanation on one line, or what stands for it."""
    if told.explanation is not None:
        return CellText(terminal_safe(shortened(told.explanation, MOST_CHARACTERS)))
    words = shortened(told.words, MOST_CHARACTERS)
    return CellText(f"(fires on: {terminal_safe(words)})" if words else NOTHING, "italic")


def _token(token: str) -> str:
    """A token without the space that most begin with; spaces alone are made visible."""
    row = one_row(shortened(token, MOST_CHARACTERS))
    return terminal_safe(row.strip(" ") or row.replace(" ", SPACE) or NOTHING)


def _left_out(found: TextFirings) -> str:
    n_special = int(found.special.sum())
    return (
        f"{len(found.tokens):,} tokens; left out, as in the cache: {n_special} special, "
        f"{found.n_outlier} with an outlying norm"
    )
