"""Details of latents: definitions, slow twins, and what comes back from the file."""

import math
import sqlite3
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny
import tiny_study
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from test_cofiring import slow_cofiring
from tiny_results import CACHE, memory

from lite_interp import cofiring, details, study, tallies
from lite_interp.db import cached as stored_firings
from lite_interp.db import caches
from lite_interp.db import details as stored
from lite_interp.db.file import open_results
from lite_interp.detailing import Weights, compute_details
from lite_interp.details import (
    LatentDetails,
    details_lines,
    flags_of,
    greatest,
    position_dependence,
    token_shares,
)
from lite_interp.lens import open_directions, open_lens
from lite_interp.loading import load_job
from lite_interp.pipeline import cache_corpus

NAUGHTY = 'a"]\x1b[31m\n\u202e<b>'
FULL = LatentDetails(
    latent=2,
    quantiles=tuple(float(n) for n in range(1, 12)),
    top_tokens=((" the", 0.75), (NAUGHTY, 0.004)),
    single_token_share=0.75,
    position_dependence=0.125,
    flags=("dense", "single_token"),
    promoted=((" cat", 3.5), ("\ufffd", 1.25)),
    suppressed=((" dog", -2.0),),
    decoder_neighbours=((3, 0.9), (7, 0.5), (1, 0.25)),
    cofiring_neighbours=((7, 0.8), (4, 0.6), (3, 0.5), (9, 0.1)),
)
DEAD = LatentDetails(0, (), (), 0.0, 0.0, ("dead",), None, None, (), ())


def test_the_activation_is_shared_out_over_tokens():
    ids = np.array([7, 5, 7, 9, 5, 2], np.int32)
    values = np.array([1, 3, 2, 1, 2, 1], np.float32)
    found = token_shares(ids, values)
    assert found.token_ids.tolist() == [5, 7, 2, 9]  # 2 and 9 are equal: in order of id
    assert found.shares == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert not len(token_shares(np.zeros(0, np.int32), np.zeros(0, np.float32)).shares)


def slow_dependence(fired, counted):
    """I / H from the definition, cell by cell."""
    n, shared = sum(counted), 0.0
    p_fired = sum(fired) / n
    for hit, total in zip(fired, counted, strict=True):
        for cell, margin in ((hit, p_fired), (total - hit, 1 - p_fired)):
            if cell:
                shared += cell / n * math.log(cell / n / (margin * total / n))
    return shared / -(p_fired * math.log(p_fired) + (1 - p_fired) * math.log(1 - p_fired))


def test_position_dependence_is_shared_information_over_the_entropy_of_firing():
    draw = np.random.default_rng(0)
    for size in (50, 10**6):
        counted = draw.integers(0, size, 8)
        fired = draw.binomial(counted, draw.random((20, 8)) ** 4)
        found = position_dependence(fired, counted)
        slow = [slow_dependence(each, counted.tolist()) for each in fired.tolist()]
        assert found == pytest.approx(slow, rel=1e-4)
        for each, share in zip(fired, found, strict=True):
            table = np.stack([each, counted - each])[:, counted > 0]
            shared = mutual_info_score(None, None, contingency=table)
            assert share == pytest.approx(shared / entropy(table.sum(axis=1)), rel=1e-9)


def test_position_dependence_is_one_when_the_bin_decides_and_zero_when_it_says_nothing():
    counted = np.array([40, 30, 20, 10, 10, 10, 10, 10])
    only_first = np.where(np.arange(8) == 0, counted, 0)
    silent = np.zeros(8, np.int64)
    found = position_dependence(np.stack([only_first, counted // 5, silent, counted]), counted)
    assert found[0] == pytest.approx(1)
    assert found[1] == pytest.approx(0, abs=1e-9)
    assert found[2:].tolist() == [0, 0]
    assert position_dependence(silent[None], silent).tolist() == [0]


def test_a_sparse_latent_in_one_bin_is_positional_though_its_information_is_small():
    """What the docstring of POSITIONAL says; in nats it would be below the blog's 0.05."""
    counted = np.full(8, 12_500)
    fired = [10] + 7 * [0], [1000] + 7 * [0], [500] + 7 * [71]
    alone, dense, half = position_dependence(np.array(fired), counted)
    assert 0.19 < alone < 0.21
    assert alone * -math.log(1e-4) * 1e-4 < 0.05
    assert 0.3 < dense < 0.4
    assert 0.04 < half < details.POSITIONAL


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ((0, 0, 0.0, 0.0, 0.0), ("dead",)),
        ((19, 19, 0.001, 1.0, 0.9), ("rare",)),
        ((20, 20, 0.001, 0.9, 0.1), ()),
        ((20, 20, 0.001, 0.91, 0.11), ("single_token", "positional")),
        ((200, 19, 0.1, 0.5, 0.5), ()),
        ((200, 40, 0.11, 0.5, 0.5), ("dense", "positional")),
    ],
)
def test_flags_stand_at_their_thresholds(facts, expected):
    assert flags_of(*facts) == expected


def test_the_greatest_are_in_order_and_ties_in_order_of_id():
    numbers = np.array([0.5, 0.25, 0.5, 0.75, 0.25, 0.25])
    ids = np.array([9, 8, 7, 6, 5, 4])
    assert greatest(numbers, ids, 4).tolist() == [3, 2, 0, 5]
    assert greatest(numbers, ids, 6).tolist() == [3, 2, 0, 5, 4, 1]
    assert greatest(numbers[:2], ids[:2], 6).tolist() == [0, 1]


def test_lines_say_what_is_known_and_leave_out_what_is_not():
    lines = details_lines(FULL)
    assert lines == [
        "flags: dense, single token",
        "activation: 1 least, 6 median, 10 at 90%, 11 greatest",
        f'tokens: " the" 75%  "{NAUGHTY}" <1%',
        "position: tells 12% of firing",
        'promotes: " cat" +3.50  "\ufffd" +1.25',
        'suppresses: " dog" -2.00',
        "same direction: 3 (0.90)  7 (0.50)  1 (0.25)",
        "fires with: 7 (0.80)  4 (0.60)  3 (0.50)  9 (0.10)",
    ]
    assert details_lines(DEAD) == ["flags: dead"]
    assert details_lines(FULL, n=1)[-1] == "fires with: 7 (0.80)"


def test_details_come_back_as_they_were_stored():
    db = memory()
    assert not stored.has_details(db, CACHE)
    stored.store_details(db, CACHE, [DEAD, FULL])
    assert stored.has_details(db, CACHE)
    assert stored.load_details(db, CACHE, 0) == DEAD
    assert stored.load_details(db, CACHE, 2) == FULL
    assert stored.load_details(db, CACHE, 1) is None
    row = db.execute("select promoted, flags from latent_details where latent = 2").fetchone()
    assert row == ('[[" cat",3.5],["\ufffd",1.25]]', '["dense","single_token"]')


def test_details_are_stored_all_or_not_at_all():
    db = memory()

    def until_it_breaks():
        yield FULL
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored.store_details(db, CACHE, until_it_breaks())
    assert not stored.has_details(db, CACHE)
    with pytest.raises(sqlite3.IntegrityError):
        stored.store_details(db, "b2:none", [FULL])


def test_siblings_are_taken_in_turn_and_once():
    db = memory()
    stored.store_details(db, CACHE, [DEAD, FULL])
    assert stored.siblings(db, CACHE, 2, 10) == [3, 7, 4, 1, 9]
    assert stored.siblings(db, CACHE, 2, 3) == [3, 7, 4]
    assert stored.siblings(db, CACHE, 0, 3) == stored.siblings(db, CACHE, 1, 3) == []


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A whole cache in a file, and subject and coder in memory."""
    folder = tmp_path_factory.mktemp("details")
    job = tiny_study.cache_job(tiny_study.write_parts(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.making, "SHARD_TOKENS", 8 * tiny_study.N_CTX)
        cache_corpus(folder / "results.db", job, tiny_study.Told())
    with open_results(folder / "results.db") as db:
        yield db, caches.the_cache(db), load_job(job, tiny_study.Told())


def all_details(db, cache, loaded, weights):
    """Computed afresh, stored, loaded."""
    db.execute("delete from latent_details")
    compute_details(db, cache, loaded.tokenizer, weights)
    return [stored.load_details(db, cache.id, latent) for latent in range(cache.n_latents)]


def test_details_of_a_cache_are_those_of_its_dense_matrix(cached):
    db, cache, loaded = cached
    found = all_details(
        db, cache, loaded, Weights(loaded.subject, loaded.coder, loaded.site.writes)
    )
    _, token_ids = caches.load_tokens(db, cache.corpus)
    dense = np.zeros((*token_ids.shape, cache.n_latents), np.float32)
    for latent in range(cache.n_latents):
        firings = stored_firings.load_firings(db, cache, latent)
        dense[firings.contexts, firings.positions, latent] = firings.values
    anywhere = (dense > 0).any(axis=2)
    assert anywhere.sum() == cache.n_counted  # a topk coder fires wherever it reads
    bins = np.arange(token_ids.shape[1]) // (tiny_study.N_CTX // 8)
    counted = [int(anywhere[:, bins == b].sum()) for b in range(8)]
    together = slow_cofiring((dense > 0).reshape(-1, cache.n_latents), 10)
    for latent, each in enumerate(found):
        values = dense[:, :, latent]
        assert each.latent == latent
        assert each.cofiring_neighbours == together[latent]
        if not values.any():
            assert each.flags == ("dead",)
            assert (each.quantiles, each.top_tokens, each.single_token_share) == ((), (), 0.0)
            continue
        assert each.quantiles[0] == pytest.approx(values[values > 0].min(), rel=1e-4)
        assert each.quantiles[10] == pytest.approx(values.max(), rel=1e-4)
        sums = Counter()
        for token, value in zip(token_ids.ravel(), values.ravel(), strict=True):
            sums[loaded.tokenizer.texts([token])[0]] += float(value)
        most, share = sums.most_common(1)[0]
        assert each.top_tokens[0][0] == most
        assert each.top_tokens[0][1] == pytest.approx(share / values.sum(), rel=1e-4)
        assert each.single_token_share == pytest.approx(share / values.sum(), rel=1e-6)
        assert len(each.top_tokens) <= 10
        fired = [int((values[:, bins == b] > 0).sum()) for b in range(8)]
        assert each.position_dependence == pytest.approx(
            slow_dependence(fired, counted), rel=1e-4, abs=1e-9
        )
    assert {"dead", "dense"} <= {flag for each in found for flag in each.flags}


def test_what_the_weights_say_stands_beside_each_latent(cached):
    db, cache, loaded = cached
    weights = Weights(loaded.subject, loaded.coder, loaded.site.writes)
    found = all_details(db, cache, loaded, weights)
    lens = open_lens(*weights).read(loaded.coder.W_dec)
    neighbours = open_directions(loaded.coder.W_dec).neighbours(0, cache.n_latents)
    assert [each.decoder_neighbours for each in found] == neighbours
    assert len(found[3].promoted) == len(found[3].suppressed) == 10
    first, logit = int(lens.promoted_ids[3, 0]), float(lens.promoted[3, 0])
    assert found[3].promoted[0][0] == loaded.tokenizer.texts([first])[0]
    assert found[3].promoted[0][1] == pytest.approx(logit, rel=1e-4)
    assert found[3].suppressed[0][1] == pytest.approx(float(lens.suppressed[3, 0]), rel=1e-4)
    zero = 2 * tiny.D_MODEL  # from here on the directions of the tiny coder have length 0
    assert (found[zero].promoted, found[zero].suppressed) == ((), ())


def test_without_weights_they_are_unknown_and_the_rest_is_the_same(cached):
    db, cache, loaded = cached
    weights = Weights(loaded.subject, loaded.coder, loaded.site.writes)
    full = all_details(db, cache, loaded, weights)
    bare = all_details(db, cache, loaded, None)
    assert {(each.promoted, each.suppressed, each.decoder_neighbours) for each in bare} == {
        (None, None, ())
    }
    assert [each.cofiring_neighbours for each in bare] == [
        each.cofiring_neighbours for each in full
    ]
    assert [each.flags for each in bare] == [each.flags for each in full]


def test_details_do_not_depend_on_the_blocks(cached, monkeypatch):
    db, cache, loaded = cached
    weights = Weights(loaded.subject, loaded.coder, loaded.site.writes)
    whole = all_details(db, cache, loaded, weights)
    monkeypatch.setattr(tallies, "blocks", partial(tallies.blocks, most_latents=3))
    split = all_details(db, cache, loaded, weights)
    assert [replace(each, promoted=(), suppressed=()) for each in split] == [
        replace(each, promoted=(), suppressed=()) for each in whole
    ]
    for one, other in zip(split, whole, strict=True):
        assert [token for token, _ in one.promoted] == [token for token, _ in other.promoted]


def test_nothing_is_stored_if_a_block_fails(cached, monkeypatch):
    db, cache, loaded = cached
    db.execute("delete from latent_details")
    monkeypatch.setattr(tallies, "blocks", partial(tallies.blocks, most_latents=3))
    seen = []

    def fails_later(found):
        seen.append(found)
        if len(seen) == 3:
            raise MemoryError
        return whole(found)

    whole = tallies.count_contexts
    monkeypatch.setattr(tallies, "count_contexts", fails_later)
    with pytest.raises(MemoryError):
        compute_details(db, cache, loaded.tokenizer, None)
    assert not stored.has_details(db, cache.id)


def test_cofirings_of_a_large_cache_come_from_every_second_context(cached, monkeypatch):
    db, cache, loaded = cached
    whole = all_details(db, cache, loaded, None)
    n_firings = stored.count_firings(db, cache.id)
    assert n_firings == db.execute("select sum(n_firings) from latents").fetchone()[0] > 0
    monkeypatch.setattr(cofiring, "every_nth_context", lambda n: 2 if n == n_firings else 1)
    sampled = all_details(db, cache, loaded, None)
    assert [each.quantiles for each in sampled] == [each.quantiles for each in whole]
    dense = np.zeros((cache.corpus.n_contexts * tiny_study.N_CTX, cache.n_latents), bool)
    for latent in range(cache.n_latents):
        firings = stored_firings.load_firings(db, cache, latent)
        even = firings.contexts % 2 == 0
        places = firings.contexts[even] * tiny_study.N_CTX + firings.positions[even]
        dense[places, latent] = True
    assert [each.cofiring_neighbours for each in sampled] == slow_cofiring(dense, 10)
