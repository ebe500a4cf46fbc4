"""Silent windows of one latent, parted into strata, and draws from each.

    silent ─▶ same_token   hold a token on which the latent fires most
           ─▶ sibling      of the rest: a similar latent fires in them
           ─▶ near         of the rest: the nearest in embedding to the scored activating windows
           ─▶ random       all that are left

Each silent window belongs to exactly one stratum, so the windows that a drawn one stands for are
known, and rates over the whole corpus follow without bias (Horvitz and Thompson, Journal of the
American Statistical Association 47, 1952, 663-685). A stratum is cut out only where windows of it
are wanted; else its windows stay with the rest.

Delphi (EleutherAI) has these sources too, apart from each other and without weights. It takes the
windows nearest to one shown window only, and those on which a neighbour fires most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lite_interp.details import token_shares
from lite_interp.records import Firings
from lite_interp.windows import Grid, active_windows

MAIN_SHARE = 0.5
"""Share of the activation at which the main tokens of a latent are enough."""
LEAST_SHARE = 0.1
"""Share of the activation that each of them carries, at least; so they are five at most. A latent
that fires on a hundred words has often a comma among them, which is no clue to it."""
MOST_NEAR = 200
"""Windows in the stratum `near`, at most. A share of a large corpus would not be near."""
NEAR_SHARE = 0.1
"""Share of the windows that are left that may be `near`, at most: for small corpora."""

Cut = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Numbers of the silent windows that are left → numbers of those that belong to a stratum."""
Near = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.int64]]
"""Numbers of some windows, of windows to choose from, and how many → numbers of the nearest."""
Siblings = Callable[[int], Iterable[Firings]]
"""A latent → the firings of the latents that are like it."""


class Drawn(NamedTuple):
    """A silent window that was drawn."""

    number: int
    """Number of the window."""
    stratum: str
    """`same_token`, `sibling`, `near` or `random`."""
    weight: float
    """Silent windows of the stratum that it stands for, >= 1."""


def main_tokens(token_ids: NDArray[np.int32], grid: Grid, firings: Firings) -> NDArray[np.int64]:
    """(m,) ids of the fewest tokens with half of the activation in windows, if each has a tenth."""
    inside = grid.numbers(firings.contexts, firings.positions) >= 0
    contexts, positions = firings.contexts[inside], firings.positions[inside]
    found = token_shares(token_ids[contexts, positions], firings.values[inside])
    n = int(np.searchsorted(np.cumsum(found.shares), MAIN_SHARE)) + 1
    return found.token_ids[:n][found.shares[:n] >= LEAST_SHARE]


def windows_with(
    token_ids: NDArray[np.int32], grid: Grid, wanted: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Numbers, rising, of the windows that hold one of the wanted tokens.

    One pass over the corpus: 0.03 s for a million tokens, 0.15 s if the token is everywhere.
    """
    hits = np.isin(token_ids, wanted)
    # Padding has a token id too.
    hits &= np.arange(token_ids.shape[1]) < grid.lengths[:, None]
    contexts, positions = np.nonzero(hits)
    numbers = grid.numbers(contexts.astype(np.int32), positions.astype(np.int32))
    return np.unique(numbers[numbers >= 0])


def same_token(token_ids: NDArray[np.int32], grid: Grid, firings: Firings) -> Cut:
    """The windows that hold a main token of the latent: does a judge know more than the token?"""

    def cut(left: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.intersect1d(
            left, windows_with(token_ids, grid, main_tokens(token_ids, grid, firings))
        )

    return cut


def sibling(grid: Grid, siblings: Iterable[Firings]) -> Cut:
    """The windows in which a similar latent fires: can a judge tell the latent from it?"""

    def cut(left: NDArray[np.int64]) -> NDArray[np.int64]:
        found = [active_windows(grid, firings).numbers for firings in siblings]
        return np.intersect1d(left, np.concatenate([left[:0], *found]))

    return cut


def near(nearest: Near, scored: NDArray[np.int64]) -> Cut:
    """The windows nearest to the scored activating ones: does a judge know more than the topic?

    Not the nearest to the shown ones: those depend on the sampler, and then so would the test.

    As many as `MOST_NEAR` and `NEAR_SHARE` allow, however many are drawn: so what is near does
    not depend on how many are wanted.
    """

    def cut(left: NDArray[np.int64]) -> NDArray[np.int64]:
        return nearest(scored, left, min(MOST_NEAR, int(np.ceil(NEAR_SHARE * len(left)))))

    return cut


def part(silent: NDArray[np.int64], cuts: Mapping[str, Cut]) -> dict[str, NDArray[np.int64]]:
    """Every silent window in one stratum, in the order of the cuts; the rest is `random`.

    Whatever a cut says, only silent windows that no earlier cut took can be in its stratum.
    """
    strata = {}
    left = silent
    for stratum, cut in cuts.items():
        strata[stratum] = np.intersect1d(left, cut(left))
        left = np.setdiff1d(left, strata[stratum])
    return {**strata, "random": left}


def draw_silent(
    strata: Mapping[str, NDArray[np.int64]],
    wanted: Mapping[str, int],
    tokens: Callable[[int], bytes],
    taken: Iterable[bytes],
    random: np.random.Generator,
) -> list[Drawn]:
    """As many windows of each stratum as are wanted, or as there are, each as likely.

    Args:
        strata: numbers of the windows in each.
        wanted: how many of each.
        tokens: the tokens of a window, as bytes.
        taken: tokens that no drawn window may have; nor do two drawn ones have the same.
        random: randomness.

    A window that is passed over for its tokens still counts in the size of its stratum: those
    that are drawn stand for it too.
    """
    seen = set(taken)
    drawn = []
    for stratum, numbers in strata.items():
        chosen = []
        for number in random.permutation(numbers):
            if len(chosen) == wanted[stratum]:
                break
            text = tokens(int(number))
            if text not in seen:
                seen.add(text)
                chosen.append(int(number))
        drawn += [Drawn(number, stratum, len(numbers) / len(chosen)) for number in chosen]
    return drawn
