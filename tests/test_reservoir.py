"""What a reservoir keeps: counts of everything, the strongest windows, samples without favour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_study

from lite_interp import reservoir, stages, study
from lite_interp.db import cached, caches
from lite_interp.db.details import load_details
from lite_interp.db.file import open_results, read_results
from lite_interp.errors import UsageError
from lite_interp.loading import cache_tokenizer
from lite_interp.pipeline import cache_corpus
from lite_interp.records import Firings
from lite_interp.reservoir import WIDTH, Kept
from lite_interp.samplers import SAMPLERS, DrawSettings, Source, draw_example_set
from lite_interp.windows import active_windows, make_grid


def make_grid_of(n_windows):
    return make_grid(np.full(n_windows, WIDTH, np.int32), WIDTH)


def firings_in(numbers, seed=0):
    """One or two firings in each window."""
    draw = np.random.default_rng(seed)
    contexts = np.sort(np.concatenate([numbers, numbers[::2]])).astype(np.int32)
    positions = np.zeros(len(contexts), np.int32)
    positions[1:][contexts[1:] == contexts[:-1]] = 5
    return Firings(contexts, positions, draw.lognormal(0, 1, len(contexts)).astype(np.float32))


def test_top_sample_and_common_windows_are_kept_whole_and_nothing_else():
    grid, numbers = make_grid_of(6000), np.arange(0, 6000, 3)
    firings, common = firings_in(numbers), reservoir.common_windows(6000, 500)
    left, n_windows = reservoir.thin(firings, grid, 7, common)
    assert n_windows == 2000
    kept = np.unique(left.contexts)
    strongest = active_windows(grid, firings).numbers[: reservoir.N_TOP]
    drawn = reservoir.sample(numbers, 7)
    assert len(drawn) == reservoir.N_SAMPLE
    expected = set(strongest) | set(drawn) | set(np.intersect1d(common, numbers))
    assert set(kept.tolist()) == {int(number) for number in expected}
    inside = np.isin(firings.contexts, kept)
    np.testing.assert_array_equal(left.values, firings.values[inside])
    np.testing.assert_array_equal(left.positions, firings.positions[inside])


def test_the_sample_is_found_again_among_what_was_kept():
    grid, numbers = make_grid_of(6000), np.arange(0, 6000, 2)
    left, _ = reservoir.thin(firings_in(numbers), grid, 3, reservoir.common_windows(6000, 300))
    again = reservoir.sample(np.unique(left.contexts).astype(np.int64), 3)
    np.testing.assert_array_equal(again, reservoir.sample(numbers, 3))


def test_a_latent_with_few_windows_keeps_all_of_them():
    grid, numbers = make_grid_of(900), np.arange(40, 240)
    firings = firings_in(numbers)
    left, n_windows = reservoir.thin(firings, grid, 0, np.zeros(0, np.int64))
    assert (len(left.values), n_windows) == (len(firings.values), 200)


def test_no_window_is_favoured():
    """Of 400 windows 100 are drawn for each of 2,000 latents: each about 500 times."""
    counts = np.zeros(400)
    for latent in range(2000):
        counts[reservoir.sample(np.arange(400), latent, 100)] += 1
    # Standard deviation 19.4: five of them.
    assert abs(counts - 500).max() < 97
    firsts = [reservoir.sample(np.arange(400), latent, 1)[0] for latent in range(2000)]
    assert len(set(firsts)) > 380


def test_windows_that_a_draw_takes_stand_for_all_of_a_latent():
    """Weights add up to the windows there are, and deciles are those of all, about."""
    grid, numbers = make_grid_of(6000), np.arange(0, 6000, 3)
    firings, common = firings_in(numbers), reservoir.common_windows(6000, 1500)
    left, n_windows = reservoir.thin(firings, grid, 7, common)
    token_ids = np.arange(6000 * WIDTH, dtype=np.int32).reshape(6000, WIDTH)
    kept = Kept(n_windows, reservoir.sample(np.unique(left.contexts).astype(np.int64), 7), common)
    source = Source("b2:x", grid, token_ids, lambda ids: tuple(f"{i} " for i in ids))
    thinned = replace(source, kept=lambda latent: kept)
    settings = DrawSettings(n_shown=20, n_active=50, n_silent=40, n_held_out=6)
    for sampler in SAMPLERS:
        chosen = replace(settings, sampler=sampler)
        some = draw_example_set(thinned, 7, left, chosen, 0)
        full = draw_example_set(source, 7, firings, chosen, 0)
        for examples in (some, full):
            active = [each for each in examples.scored if each.stratum.startswith("decile")]
            silent = [each for each in examples.scored if each.stratum == "random"]
            assert (len(active), len(silent), len(examples.shown)) == (50, 40, 20)
            assert sum(each.weight for each in active) == pytest.approx(2000)
            assert sum(each.weight for each in silent) == pytest.approx(4000)
            assert all(each.window.peak == 0 for each in silent)
        # Windows are drawn by strength as they are from all.
        for few, many in zip(peaks_by_decile(some), peaks_by_decile(full), strict=True):
            assert few == pytest.approx(many, rel=0.35)
    shown = draw_example_set(thinned, 7, left, replace(settings, sampler="top"), 0).shown
    strongest = np.sort(active_windows(grid, firings).peaks)[::-1]
    assert min(each.window.peak for each in shown) >= strongest[30]


def peaks_by_decile(examples):
    found = {}
    for each in examples.scored:
        if each.stratum.startswith("decile"):
            found.setdefault(each.stratum, []).append(each.window.peak)
    return [np.mean(found[f"decile_{number}"]) for number in range(10)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same corpus with all firings, and thinned to a few windows of each latent."""
    folder = tmp_path_factory.mktemp("reservoir")
    parts = tiny_study.write_parts(folder, 400)
    paths = {keep: folder / f"{keep}.db" for keep in ("all", "reservoir")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.making, "SHARD_TOKENS", 64 * tiny_study.N_CTX)
        for name, n in (("N_TOP", 8), ("N_SAMPLE", 60), ("N_COMMON", 150)):
            patch.setattr(reservoir, name, n)
        patch.setattr(reservoir.sample, "__defaults__", (60,))
        patch.setattr(reservoir.common_windows, "__defaults__", (150,))
        for keep, path in paths.items():
            cache_corpus(path, tiny_study.cache_job(parts, keep=keep), tiny_study.Told())
        yield paths


def test_statistics_and_details_are_those_of_all_firings(both):
    found = {}
    for keep, path in both.items():
        with read_results(path) as db:
            (cache,) = caches.load_caches(db)
            assert cache.keep == keep
            stats = [caches.load_latent(db, cache.id, number) for number in range(cache.n_latents)]
            details = [load_details(db, cache.id, number) for number in range(cache.n_latents)]
            lengths, _ = caches.load_tokens(db, cache.corpus)
            grid = make_grid(lengths, WIDTH)
            firings = [cached.load_firings(db, cache, number) for number in range(32)]
            windows = [len(active_windows(grid, each).numbers) for each in firings]
            found[keep] = (stats, details, windows, sum(len(each.values) for each in firings))
    everything, some = found["all"], found["reservoir"]
    assert [each.n_windows for each in everything[0]] == [None] * 32
    assert [each.n_windows for each in some[0]] == everything[2]
    assert [replace(each, n_windows=None) for each in some[0]] == everything[0]
    assert some[1] == everything[1]
    assert max(some[2]) < max(everything[2])
    assert some[3] < everything[3] / 2


def test_what_is_left_is_smaller_and_is_read_as_before(both):
    assert both["reservoir"].stat().st_size < both["all"].stat().st_size
    with read_results(both["reservoir"]) as db, read_results(both["all"]) as whole:
        (cache,), (other,) = caches.load_caches(db), caches.load_caches(whole)
        assert cached.is_thinned(db, cache)
        found = dict(cached.iterate_firings(db, cache))
        for latent, firings in found.items():
            single = cached.load_firings(db, cache, latent)
            for one, two in zip(
                (firings.contexts, firings.positions, firings.values),
                (single.contexts, single.positions, single.values),
                strict=True,
            ):
                np.testing.assert_array_equal(one, two)
            everything = cached.load_firings(whole, other, latent)
            places = everything.contexts.astype(np.int64) * 999 + everything.positions
            kept = np.isin(places, single.contexts.astype(np.int64) * 999 + single.positions)
            assert kept.sum() == len(single.values)
            # The greatest activation of a shard and of the whole corpus may differ by a binade.
            np.testing.assert_allclose(single.values, everything.values[kept], rtol=2**-10)


def test_silent_windows_are_silent_for_all_firings(both):
    settings = DrawSettings(n_shown=5, n_active=10, n_silent=20, n_same_token=10, n_sibling=10)
    with open_results(both["reservoir"]) as db, read_results(both["all"]) as whole:
        (cache,), (other,) = caches.load_caches(db), caches.load_caches(whole)
        source = stages.open_source(db, cache, cache_tokenizer(cache, ""), WIDTH)
        n_silent = 0
        for latent in range(cache.n_latents):
            firings = cached.load_firings(db, cache, latent)
            if not len(firings.values):
                continue
            examples = draw_example_set(source, latent, firings, settings, 1)
            truth = cached.load_firings(whole, other, latent)
            places = zip(truth.contexts, truth.positions // WIDTH, strict=True)
            active = {(int(context), int(part)) for context, part in places}
            for each in examples.scored:
                place = (each.window.context, each.window.start // WIDTH)
                assert (place in active) == (each.window.peak > 0)
                n_silent += each.window.peak == 0
    assert n_silent > 60


def test_other_windows_than_those_kept_are_refused(both):
    with read_results(both["reservoir"]) as db:
        (cache,) = caches.load_caches(db)
        with pytest.raises(UsageError, match="keeps windows of 32 tokens: 16") as caught:
            stages.open_source(db, cache, cache_tokenizer(cache, ""), 16)
        assert "--keep all" in caught.value.hint


def test_a_reservoir_is_another_cache_than_all_firings(both):
    names = []
    for path in both.values():
        with read_results(path) as db:
            names.append(caches.load_caches(db)[0].id)
    assert len(set(names)) == 2


def test_a_finished_reservoir_is_left_alone(both, tmp_path):
    before = tiny_study.dump(both["reservoir"])
    parts = tiny_study.Parts(
        *(both["all"].parent / name for name in ("subject", "coder", "corpus.jsonl"))
    )
    told = tiny_study.Told()
    (coder,) = (both["all"].parent / "coder").glob("layers.*")
    job = tiny_study.cache_job(parts._replace(coder=coder), keep="reservoir")
    cache_corpus(both["reservoir"], job, told)
    assert told.totals == {"caching": 0}
    assert tiny_study.dump(both["reservoir"]) == before
