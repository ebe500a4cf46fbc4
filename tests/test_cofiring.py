"""Co-firing is counted as a slow count of pairs does it, whatever the blocks."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from test_tallies import firings_of

from lite_interp.cofiring import collect, every_nth_context, neighbours
from lite_interp.tallies import blocks

N_CTX = 10


def slow_cofiring(dense, n):
    """Every pair of latents, position by position."""
    together = Counter()
    for row in dense:
        together.update(combinations(np.flatnonzero(row).tolist(), 2))
    totals = dense.sum(axis=0)
    found = [[] for _ in totals]
    for (one, other), count in together.items():
        if count >= 2:
            jaccard = float(f"{count / (totals[one] + totals[other] - count):.5g}")
            found[one].append((other, jaccard))
            found[other].append((one, jaccard))
    return [tuple(sorted(each, key=lambda pair: (-pair[1], pair[0]))[:n]) for each in found]


def sparse_firings():
    """(300, 40) firings of latents of all densities; one is dead, two are the same."""
    draw = np.random.default_rng(1)
    dense = draw.random((300, 40)) < draw.random(40) ** 3
    dense[:, 5] = False
    dense[:, 6] = dense[:, 8] = draw.random(300) < 0.3
    return dense


def fast_cofiring(dense, n=10, step=1, most_latents=40, **settings):
    """The same from packed firings, block by block."""
    values = dense.reshape(-1, N_CTX, dense.shape[1]).astype(np.float32)
    each = list(blocks(firings_of(values), dense.shape[1], 200, most_latents))
    found = collect(each, dense.shape[1], values.shape[:2], step)
    return [one for block in each for one in neighbours(found, block, n, **settings)]


@pytest.mark.parametrize("block_elements", [1, 40 * 7, 10_000])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n", [3, 10, 100])
def test_cofiring_neighbours_are_those_of_a_slow_count(block_elements, n_threads, n):
    dense = sparse_firings()
    settings = {"block_elements": block_elements, "n_threads": n_threads}
    found = fast_cofiring(dense, n, most_latents=15, **settings)
    assert found == slow_cofiring(dense, n)
    assert found[5] == ()
    assert found[6][0] == (8, 1.0)


@pytest.mark.parametrize("step", [2, 7, 30, 99])
def test_of_a_large_cache_every_nth_context_counts(step):
    dense = sparse_firings()
    kept = dense.reshape(-1, N_CTX, 40)[::step].reshape(-1, 40)
    assert fast_cofiring(dense, step=step, most_latents=15) == slow_cofiring(kept, 10)


def test_one_position_together_is_chance_and_ties_are_in_order_of_index():
    places = [[0, 1], [1, 2], *(4 * [[4, 5, 6]])]
    dense = np.zeros((N_CTX, 6), bool)
    for latent, fired_at in enumerate(places):
        dense[fired_at, latent] = True
    found = fast_cofiring(dense, n=2)
    assert found[:2] == [(), ()]
    assert found[4] == ((2, 1.0), (3, 1.0))
    assert fast_cofiring(np.zeros((N_CTX, 2), bool)) == [(), ()]


def test_so_many_contexts_count_that_firings_fit_in_memory():
    assert [every_nth_context(n, 100) for n in (0, 100, 101, 1000)] == [1, 1, 2, 10]
