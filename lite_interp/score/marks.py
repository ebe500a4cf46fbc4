"""Wrong marks that only the text can tell from right ones.

    patterns of right marks ─match─▶ the same patterns, each in a window where it is wrong

A pattern is the positions of a window's marked tokens. The wrong marks are the right marks of
other windows, each used once, so right and wrong marks are the same patterns: whatever a rule
makes of number, run lengths and places of the marks alone, its AUROC is exactly 0.5. Source:
arXiv 2410.13928, section 3.3.2. We differ: its code marks random tokens, at the same few
positions in every window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.records import Window
from lite_interp.render import mark, marked_tokens, one_row
from lite_interp.score.base import Marked


class Match(NamedTuple):
    """A pattern and the window in which it is wrong."""

    pattern: int
    """Number of the pattern."""
    host: int
    """Number of the window."""


def right_marks(window: Window, threshold: float) -> Marked:
    """A window with the marks that belong to it; threshold as a share of its peak."""
    return Marked(window, marked_tokens(window.values, threshold))


def moved(pattern: Marked, host: Window) -> Marked:
    """The marks of one window on another one that is long enough for them."""
    positions = np.flatnonzero(pattern.marked)
    marked = np.zeros(len(host.tokens), bool)
    marked[positions] = True
    return Marked(host, marked)


def marked_row(shown: Marked) -> str:
    """A marked window on one line."""
    return mark([one_row(token) for token in shown.window.tokens], shown.marked).strip()


def match(
    patterns: Sequence[Marked], hosts: Sequence[Window], random: np.random.Generator
) -> list[Match]:
    """As many pairs of pattern and host as there can be, none twice, in the order of the hosts.

    Of all such pairings one with the most hosts as long as the pattern's own window, at random
    if there are several.
    """
    from scipy.optimize import linear_sum_assignment

    if not patterns or not hosts:
        return []
    fit = fitting(patterns, hosts)
    n_pairs = min(fit.shape)
    lengths = [len(pattern.marked) for pattern in patterns]
    cost = np.not_equal.outer([len(host.tokens) for host in hosts], lengths).astype(np.float64)
    # All draws together weigh less than one unequal length, and all of that less than one pair.
    cost += random.random(fit.shape) / (n_pairs + 1)
    cost[~fit] = 2 * n_pairs + 2
    rows, columns = linear_sum_assignment(cost)
    return [
        Match(int(pattern), int(host))
        for host, pattern in zip(rows, columns, strict=True)
        if fit[host, pattern]
    ]


def fitting(patterns: Sequence[Marked], hosts: Sequence[Window]) -> NDArray[np.bool_]:
    """(n_hosts, n_patterns) whether a pattern can be wrong in a host.

    It stands within the host, marks no token at which the latent fires, and at least one with a
    letter or a digit: marks around white space alone say nothing.
    """
    width = _width(patterns, hosts)
    marked = _padded([pattern.marked for pattern in patterns], width, False).astype(np.int64)
    closed = _padded([host.values > 0 for host in hosts], width, True).astype(np.int64)
    words = _padded([_has_word(host) for host in hosts], width, False).astype(np.int64)
    return (closed @ marked.T == 0) & (words @ marked.T > 0)


def _width(patterns: Sequence[Marked], hosts: Sequence[Window]) -> int:
    windows = [*(pattern.window for pattern in patterns), *hosts]
    return max((len(window.tokens) for window in windows), default=0)


def _padded(rows: Sequence[NDArray[np.bool_]], width: int, filled: bool) -> NDArray[np.bool_]:
    """(n, width) the rows, `filled` behind their ends."""
    table = np.full((len(rows), width), filled)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _has_word(window: Window) -> NDArray[np.bool_]:
    """(w,) tokens with a letter or a digit."""
    return np.array([any(map(str.isalnum, token)) for token in window.tokens], bool)
