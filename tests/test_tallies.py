"""What many latents' firings say at once is what each latent's say by themselves."""

import numpy as np
import pytest

from lite_interp.details import token_shares
from lite_interp.records import Firings
from lite_interp.tallies import (
    blocks,
    count_contexts,
    position_bins,
    quantiles,
    token_sums,
)

SHAPE = (20, 16)


def firings_of(values):
    """The latents that fire in (contexts, positions, latents), each with its firings."""
    for latent in np.flatnonzero(values.any(axis=(0, 1))):
        contexts, positions = np.nonzero(values[:, :, latent])
        fired = values[contexts, positions, latent]
        yield int(latent), Firings(contexts.astype(np.int32), positions.astype(np.int32), fired)


def some_values(n_latents=23):
    """Latents of all densities; the first, the last and two between never fire."""
    draw = np.random.default_rng(3)
    fires = draw.random((*SHAPE, n_latents)) < np.geomspace(0.003, 0.9, n_latents)
    fires[:, :, [0, 9, 10, n_latents - 1]] = False
    values = np.where(fires, draw.lognormal(0, 3, fires.shape), 0).astype(np.float32)
    values[:, :, 12] = np.round(values[:, :, 12])  # ties
    return values


def some_tokens():
    return np.random.default_rng(4).integers(0, 30, SHAPE).astype(np.int32)


SIZES = [(1, 99), (40, 3), (10**6, 7), (10**6, 99)]


@pytest.mark.parametrize(("most_firings", "most_latents"), SIZES)
def test_blocks_hold_every_latent_once_and_no_more_than_they_may(most_firings, most_latents):
    values = some_values()
    found = list(blocks(firings_of(values), 23, most_firings, most_latents))
    assert [block.start for block in found] == [0, *(block.stop for block in found[:-1])]
    assert found[-1].stop == 23
    for block in found:
        assert 1 <= len(block.counts) <= most_latents
        assert block.counts.sum() <= most_firings or np.count_nonzero(block.counts) == 1
        for latent in range(block.start, block.stop):
            part = slice(*block.starts[latent - block.start :][:2])
            contexts, positions = np.nonzero(values[:, :, latent])
            np.testing.assert_array_equal(block.contexts[part], contexts)
            np.testing.assert_array_equal(block.positions[part], positions)
            np.testing.assert_array_equal(block.values[part], values[contexts, positions, latent])
    assert list(blocks([], 0)) == []
    (silent,) = blocks([], 4)
    assert silent.counts.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("most_firings", "most_latents"), SIZES)
def test_every_tally_is_that_of_one_latent(most_firings, most_latents):
    values, tokens = some_values(), some_tokens()
    for block in blocks(firings_of(values), 23, most_firings, most_latents):
        spread, n_contexts = quantiles(block), count_contexts(block)
        bins, sums = position_bins(block, SHAPE[1]), token_sums(block, tokens)
        for place, latent in enumerate(range(block.start, block.stop)):
            contexts, positions = np.nonzero(values[:, :, latent])
            fired = values[contexts, positions, latent]
            assert block.counts[place] == len(fired)
            assert n_contexts[place] == len(set(contexts.tolist()))
            slow = [0] * 8
            for position in positions.tolist():
                slow[position // 2] += 1
            assert bins[place].tolist() == slow
            part = slice(*sums.starts[place:][:2])
            shares = token_shares(tokens[contexts, positions], fired)
            assert sums.token_ids[part].tolist() == sorted(shares.token_ids.tolist())
            order = np.argsort(shares.token_ids)
            np.testing.assert_allclose(
                sums.sums[part], shares.shares[order] * fired.sum(dtype=np.float64), rtol=1e-12
            )
            if len(fired):
                slow = np.quantile(fired.astype(np.float64), np.linspace(0, 1, 11))
                np.testing.assert_array_equal(spread[place], slow)
            else:
                assert spread[place].tolist() == [0] * 11


def test_positions_fall_into_eighths_of_the_longest_context():
    found = Firings(*np.zeros((2, 5), np.int32), np.ones(5, np.float32))
    for n_ctx, positions, expected in (
        (16, [0, 1, 2, 14, 15], [2, 1, 0, 0, 0, 0, 0, 2]),
        (4, [0, 1, 2, 3, 3], [1, 0, 1, 0, 1, 0, 2, 0]),
    ):
        found = Firings(
            np.zeros(5, np.int32), np.array(positions, np.int32), np.ones(5, np.float32)
        )
        (block,) = blocks([(0, found)], 1)
        assert position_bins(block, n_ctx).tolist() == [expected]
