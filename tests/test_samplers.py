import math
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_windows import SMALL, World, make_world, settings_for, worlds

from lite_interp.errors import UsageError
from lite_interp.samplers import (
    SAMPLERS,
    at_random,
    example_set_id,
    quantiles,
    top,
    window_texts,
)
from lite_interp.windows import active_windows


def positions(placed):
    return {
        (window.context, window.start + offset)
        for window, _, _ in placed
        for offset in range(len(window.tokens))
    }


@given(st.data())
def test_shown_scored_and_silent_windows_share_no_token_and_no_text(data):
    world = data.draw(worlds())
    wanted = data.draw(settings_for(world, strata=True))
    examples = world.draw(wanted, seed=data.draw(st.integers(0, 99)))
    every = [*examples.shown, *examples.scored, *examples.held_out]
    assert len(positions(every)) == sum(len(placed.window.tokens) for placed in every)
    assert len({placed.window.text for placed in every}) == len(every)
    assert len({placed.window.id for placed in every}) == len(every)


@given(st.data())
def test_every_window_says_the_truth_about_its_place(data):
    world = data.draw(worlds())
    wanted = data.draw(settings_for(world, strata=True))
    examples = world.draw(wanted)
    for window, stratum, weight in [*examples.shown, *examples.scored, *examples.held_out]:
        end = window.start + len(window.tokens)
        assert 0 <= window.start < end <= world.lengths[window.context]
        assert len(window.tokens) <= wanted.width
        np.testing.assert_array_equal(
            window.values, world.dense[window.context, window.start : end]
        )
        assert window.tokens == world.texts(world.token_ids[window.context, window.start : end])
        assert stratum.startswith("decile_") == (window.peak > 0)
        assert math.isfinite(weight)
        assert weight >= 1
    assert all(placed.window.peak > 0 for placed in examples.shown)


@given(st.data())
def test_as_many_are_drawn_as_were_asked_for_or_as_there_are(data):
    world = data.draw(worlds())
    wanted = data.draw(settings_for(world))
    examples = world.draw(wanted)
    n = len(world.distinct_peaks())
    active = [placed for placed in examples.scored if placed.stratum != "random"]
    silent = [placed for placed in examples.scored if placed.stratum == "random"]
    assert len(active) == min(wanted.n_active, n // 2)
    assert len(examples.shown) == min(wanted.n_shown, n - len(active))
    assert len(silent) <= wanted.n_silent
    if len(silent) < wanted.n_silent:  # then each silent text that no active window has was taken
        texts = {"".join(world.texts(world.tokens(world.grid.place(k)))) for k in
                 range(world.grid.n_windows)}  # fmt: skip
        assert len(silent) == len(texts) - n


@given(st.data())
def test_strata_are_tenths_of_the_ranks_and_weights_add_up_to_them(data):
    world = data.draw(worlds())
    examples = world.draw(data.draw(settings_for(world)))
    peaks = world.distinct_peaks()
    # The slow twin of deciles: ten runs of ranks whose sizes differ by at most one, larger first.
    size, larger = divmod(len(peaks), 10)
    deciles = [
        peaks[decile * size + min(decile, larger) :][: size + (decile < larger)]
        for decile in range(10)
    ]
    for role in (examples.shown, examples.scored):
        weights = Counter()
        for window, stratum, weight in role:
            weights[stratum] += weight
            if stratum != "random":
                assert window.peak in deciles[int(stratum.removeprefix("decile_"))]
        for stratum, total in weights.items():
            if stratum == "random":
                assert total == pytest.approx(world.n_silent())
            else:
                # A window stands for those with its tokens too, and for deciles that are not drawn.
                drawn = [int(name[-1]) for name in weights if name != "random"]
                there = sum(len(deciles[decile]) for decile in drawn)
                alike = (world.source.grid.n_windows - world.n_silent()) / there
                distinct = len(deciles[int(stratum.removeprefix("decile_"))])
                assert total == pytest.approx(distinct * alike)


@given(st.data())
def test_deciles_of_scored_windows_differ_by_at_most_one(data):
    world = data.draw(worlds())
    examples = world.draw(data.draw(settings_for(world)))
    counts = Counter(placed.stratum for placed in examples.scored)
    drawn = [counts[f"decile_{decile}"] for decile in range(10)]
    assert max(drawn) - min(drawn) <= 1


def test_of_windows_with_one_text_the_strongest_is_the_one_that_can_be_drawn():
    dense = np.zeros((6, 4))
    dense[:, 1] = [1, 5, 3, 2, 4, 0]
    tokens = np.tile([7, 8, 9, 10], (6, 1))
    tokens[3] = [1, 2, 3, 4]
    examples = World(tokens, dense).draw()
    # Two texts: one window is scored, one shown; the silent one has the text of an active one.
    drawn = [*examples.shown, *examples.scored]
    assert sorted(placed.window.peak for placed in drawn) == [2.0, 5.0]
    assert {placed.window.context for placed in drawn} == {1, 3}


def test_a_silent_window_with_the_text_of_an_active_one_is_no_negative():
    tokens = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 8]])
    dense = np.zeros((4, 4))
    dense[0, 0] = 1
    examples = World(tokens, dense).draw()
    silent = [placed for placed in examples.scored if placed.stratum == "random"]
    assert [placed.window.text for placed in silent] == [" t5 t6 t7 t8"]
    assert silent[0].weight == 3  # it stands for all windows that are silent


@pytest.mark.parametrize(("n_firing", "n_scored", "n_shown"), [(0, 0, 0), (1, 0, 1), (2, 1, 1),
    (3, 1, 2), (4, 2, 2), (11, 5, 6), (40, 10, 6)])  # fmt: skip
def test_a_latent_with_few_windows_keeps_up_to_half_of_them_for_scoring(
    n_firing, n_scored, n_shown
):
    dense = np.zeros((60, 4))
    dense[:n_firing, 2] = np.arange(1, n_firing + 1)
    world = World(np.arange(240).reshape(60, 4), dense)
    examples = world.draw()
    assert len(examples.shown) == n_shown
    assert sum(placed.window.peak > 0 for placed in examples.scored) == n_scored
    assert sum(placed.window.peak == 0 for placed in examples.scored) == 8


@pytest.mark.parametrize(("n_quiet", "expected"), [(0, 0), (1, 1), (3, 3), (9, 8)])
def test_a_dense_latent_has_as_many_negatives_as_there_are_silent_windows(n_quiet, expected):
    dense = np.ones((50, 8))
    dense[:n_quiet, :4] = 0
    examples = World(np.arange(400).reshape(50, 8), dense).draw()
    silent = [placed for placed in examples.scored if placed.window.peak == 0]
    assert len(silent) == expected
    assert sum(placed.weight for placed in silent) == pytest.approx(n_quiet)
    assert sum(placed.window.peak > 0 for placed in examples.scored) == 10


def test_a_corpus_without_a_window_gives_an_empty_set():
    world = World(np.zeros((3, 8)), np.ones((3, 8)), lengths=np.array([1, 0, 1], np.int32))
    examples = world.draw()
    assert (examples.shown, examples.scored) == ((), ())


def ids(examples):
    return (
        [placed.window.id for placed in examples.shown],
        [placed.window.id for placed in examples.scored],
    )


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_same_question_gives_the_same_set_whatever_was_drawn_before(sampler):
    world = make_world()
    wanted = replace(SMALL, sampler=sampler)
    alone = ids(world.draw(wanted, latent=5))
    for latent in (9, 4, 5, 6):
        world.draw(wanted, latent=latent)
    assert ids(make_world().draw(wanted, latent=5)) == alone


def test_another_seed_or_latent_gives_another_draw():
    world = make_world()
    draws = [world.draw(seed=0), world.draw(seed=1), world.draw(latent=1)]
    places = [[(p.window.context, p.window.start) for p in each.scored] for each in draws]
    assert places[0] != places[1] != places[2] != places[0]


def test_as_many_are_held_out_of_each_kind_as_are_wanted_or_left():
    world = make_world(n_contexts=60, density=0.2)
    examples = world.draw(replace(SMALL, n_held_out=5))
    kinds = Counter(placed.window.peak > 0 for placed in examples.held_out)
    assert kinds == {True: 5, False: 5}
    assert [placed.stratum.startswith("decile_") for placed in examples.held_out] == [True] * 5 + [
        False
    ] * 5
    n = len(world.distinct_peaks())
    greedy = world.draw(replace(SMALL, n_shown=n, n_held_out=5))
    assert [placed for placed in greedy.held_out if placed.window.peak > 0] == []


def test_half_of_the_silent_windows_held_out_are_look_alikes():
    world = make_world(n_contexts=80, density=0.2, n_tokens=6)
    held_out = world.draw(replace(SMALL, n_held_out=6)).held_out
    strata = Counter(placed.stratum for placed in held_out if not placed.window.peak > 0)
    assert strata == {"same_token": 3, "random": 3}
    # Each silent window is stood for once.
    weights = [placed.weight for placed in held_out if not placed.window.peak > 0]
    assert sum(weights) == pytest.approx(world.n_silent())


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("n_held_out", [0, 7])
def test_the_same_windows_are_scored_whatever_is_shown_and_held_out(sampler, n_held_out):
    world = make_world()
    wanted = replace(SMALL, n_same_token=3, n_sibling=3, n_near=3, embedder_id="e")
    expected = world.draw(wanted).scored
    changed = replace(wanted, sampler=sampler, n_shown=2, n_held_out=n_held_out)
    found = world.draw(changed).scored
    assert [(p.window.id, p.stratum, p.weight) for p in found] == [
        (p.window.id, p.stratum, p.weight) for p in expected
    ]


def test_what_is_held_out_does_not_change_what_is_shown():
    world = make_world()
    with_some, without = (world.draw(replace(SMALL, n_held_out=n)) for n in (6, 0))
    assert [p.window.id for p in with_some.shown] == [p.window.id for p in without.shown]


def test_mix_shows_the_strongest_and_others():
    ranks = np.arange(100)
    found = SAMPLERS["mix"](ranks, ranks, 10, np.random.default_rng(0))
    assert found[:5].tolist() == [0, 1, 2, 3, 4]
    assert found[5:].min() > 4 and found[5:].max() > 50


def test_the_number_of_shown_windows_does_not_change_what_is_scored():
    world = make_world()
    few, many = (world.draw(replace(SMALL, n_shown=n)) for n in (2, 20))
    active = [[p.window.id for p in each.scored if p.window.peak > 0] for each in (few, many)]
    assert active[0] == active[1]


def test_windows_are_in_order_of_their_strength():
    examples = make_world().draw()
    for role in (examples.shown, [p for p in examples.scored if p.stratum != "random"]):
        peaks = [placed.window.peak for placed in role]
        assert peaks == sorted(peaks, reverse=True)
    strata = [placed.stratum for placed in examples.scored]
    assert strata == sorted(strata)  # decile_0 … decile_9, then random


def test_a_set_says_how_it_was_drawn_and_is_named_after_it():
    examples = make_world().draw(latent=3, seed=4)
    assert (examples.latent, examples.seed, examples.sampler) == (3, 4, "quantiles")
    assert examples.settings == asdict(SMALL)
    assert examples.id == example_set_id("cache", 3, SMALL, 4)


def test_every_part_of_the_question_changes_the_name_of_the_set():
    changes = {"width": 5, "sampler": "top", "n_shown": 7, "n_active": 11, "n_silent": 9,
               "n_same_token": 1, "n_sibling": 1, "n_near": 1, "embedder_id": "b2:0",
               "n_held_out": 3}  # fmt: skip
    assert changes.keys() == asdict(SMALL).keys()
    names = [
        example_set_id("cache", 3, SMALL, 4),
        example_set_id("other", 3, SMALL, 4),
        example_set_id("cache", 2, SMALL, 4),
        example_set_id("cache", 3, SMALL, 5),
        *(example_set_id("cache", 3, replace(SMALL, **{k: v}), 4) for k, v in changes.items()),
    ]
    assert len(set(names)) == len(names)


def test_an_unknown_sampler_is_answered_with_what_was_meant():
    with pytest.raises(UsageError, match="no sampler is named: quantile$") as caught:
        make_world().draw(replace(SMALL, sampler="quantile"))
    assert "`quantiles`" in caught.value.hint


ranks_and_n = hnp.arrays(np.int64, st.integers(0, 80), elements=st.integers(0, 9999), unique=True)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@given(ranks=ranks_and_n, data=st.data())
def test_a_sampler_gives_n_different_ranks_in_order(name, ranks, data):
    ranks = np.sort(ranks)
    n = data.draw(st.integers(0, len(ranks)))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    chosen = SAMPLERS[name](ranks, ranks, n, random)
    assert len(chosen) == n
    assert (np.diff(chosen) > 0).all()
    assert np.isin(chosen, ranks).all()


@given(ranks=ranks_and_n, data=st.data())
def test_quantiles_draws_alike_from_ten_equal_parts(ranks, data):
    ranks = np.sort(ranks)
    n = data.draw(st.integers(0, len(ranks)))
    chosen = quantiles(ranks, ranks, n, np.random.default_rng(data.draw(st.integers(0, 99))))
    counts = [np.isin(part, chosen).sum() for part in np.array_split(ranks, 10)]
    assert max(counts) - min(counts) <= 1


def test_top_shows_the_strongest():
    assert top(np.arange(5, 50), np.arange(5, 50), 3, np.random.default_rng(0)).tolist() == [
        5,
        6,
        7,
    ]


def share_of_draws(sampler, n_ranks, n, n_draws=2000):
    drawn = np.zeros(n_ranks)
    for seed in range(n_draws):
        ranks = np.arange(n_ranks)
        drawn[sampler(ranks, ranks, n, np.random.default_rng(seed))] += 1
    return drawn / n_draws


@pytest.mark.parametrize(("sampler", "n"), [(at_random, 7), (quantiles, 7), (quantiles, 10)])
def test_no_rank_is_favoured(sampler, n):
    # 30 ranks, each drawn with chance n/30 in 2,000 draws: a standard deviation of at most .0105.
    # One of 30 is 4.5 deviations off once in 5,000 runs; the seeds are fixed.
    assert np.abs(share_of_draws(sampler, 30, n) - n / 30).max() < 4.5 * 0.0105


def test_weights_give_the_whole_corpus_back_on_average():
    # Horvitz and Thompson: the sum of weight × peak over the scored windows estimates the sum of
    # peaks over all active windows, without bias, if each decile is sampled evenly. The standard
    # error of 300 draws is measured; 4 of them are exceeded once in 15,000 runs.
    world = make_world(n_contexts=60, density=0.05)
    peaks = world.distinct_peaks()
    assert len(peaks) == len(active_windows(world.grid, world.firings).numbers) > 40
    sums = [
        sum(p.weight * p.window.peak for p in world.draw(seed=seed).scored) for seed in range(300)
    ]
    error = np.std(sums) / math.sqrt(len(sums))
    assert error > 0
    assert np.mean(sums) == pytest.approx(sum(peaks), abs=4 * error)


def test_every_silent_window_is_as_likely_as_the_others():
    # 20 silent windows, 8 drawn, 700 draws: a standard deviation of .0185; 4.5 of them.
    dense = np.zeros((30, 4))
    dense[20:, 0] = 1
    world = World(np.arange(120).reshape(30, 4), dense)
    drawn = np.zeros(30)
    for seed in range(700):
        examples = world.draw(replace(SMALL, n_shown=0, n_active=0), seed=seed)
        drawn[[placed.window.context for placed in examples.scored]] += 1
    assert (drawn[20:] == 0).all()
    assert np.abs(drawn[:20] / 700 - 8 / 20).max() < 4.5 * 0.0185


def test_the_text_of_a_window_is_that_of_its_tokens():
    world = World(np.arange(8).reshape(2, 4), np.ones((2, 4)), width=2)
    assert list(window_texts(world.source, [3, 0])) == [" t6 t7", " t0 t1"]
    shown = world.draw(replace(SMALL, n_active=0)).shown
    numbers = [int(p.window.context * 2 + p.window.start // 2) for p in shown]
    assert [p.window.text for p in shown] == list(window_texts(world.source, numbers))
