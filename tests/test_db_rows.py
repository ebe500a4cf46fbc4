import json
import math
import sqlite3
from dataclasses import asdict, replace

import numpy as np
import pytest
import tiny_results
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_results import (
    CACHE,
    CORPUS,
    EMBEDDER,
    ENGINE,
    PROMPT,
    USAGE,
    make_examples,
    make_explanation,
    make_shards,
    make_trial,
    store_latent,
)

from lite_interp import firing_codec
from lite_interp.db import cached, caches, steerings, studies
from lite_interp.db import trials as trial_rows
from lite_interp.db.file import add
from lite_interp.errors import ResultsError, UsageError
from lite_interp.explain import way_of
from lite_interp.ids import canonical_json, content_id
from lite_interp.prompts import load_prompt
from lite_interp.records import (
    Estimate,
    LatentStats,
    Passage,
    Place,
    Placed,
    Score,
    Steering,
    Usage,
    Verdict,
)
from lite_interp.render import marked_text
from lite_interp.windows import make_window


@pytest.fixture
def db():
    return tiny_results.memory()


def n_rows(db, table):
    return db.execute(f"select count(*) from {table}").fetchone()[0]


# Corpora


def test_a_corpus_comes_back_with_its_tokens(db):
    tiny_results.store_corpus(db)
    assert caches.has_corpus(db, CORPUS.id)
    assert not caches.has_corpus(db, "b2:other")
    assert caches.load_corpus(db, CORPUS.id) == CORPUS
    for shard in make_shards():
        found = caches.load_context_shard(db, CORPUS.id, shard.ordinal)
        assert (found.ordinal, found.first) == (shard.ordinal, shard.first)
        np.testing.assert_array_equal(found.lengths, shard.lengths)
        np.testing.assert_array_equal(found.token_ids, shard.token_ids)


def test_all_tokens_of_a_corpus_are_in_the_order_of_its_contexts(db):
    tiny_results.store_corpus(db)
    lengths, token_ids = caches.load_tokens(db, CORPUS)
    assert lengths.tolist() == [8, 7, 6, 5, 4, 3]
    assert token_ids.shape == (6, 8)
    assert token_ids[4].tolist() == [400, 401, 402, 403, 0, 0, 0, 0]


def test_a_corpus_is_stored_whole_or_not_at_all(db):
    def broken():
        yield make_shards()[0]
        raise ZeroDivisionError

    other = replace(CORPUS, id="b2:other")
    with pytest.raises(ZeroDivisionError):
        caches.store_corpus(db, other, broken())
    assert not caches.has_corpus(db, "b2:other")
    assert n_rows(db, "context_shards") == 0


# Firings


def shard_row(shard, cache_id=CACHE, **changes):
    plain = {"cache_id": cache_id, "shard": shard, "n_firings": 1, "n_counted": 10}
    return {**plain, "n_masked": {"special": 2, "outlier": 1}, "seconds": 0.5, **changes}


def store_dense(db, dense, cache_id=CACHE):
    """Store a (6, 8, n_latents) table of activations in three shards of two contexts."""
    for ordinal in range(3):
        part = dense[2 * ordinal : 2 * ordinal + 2]
        packed = []
        for latent in range(dense.shape[2]):
            flat = part[:, :, latent].reshape(-1)
            places = np.flatnonzero(flat)
            if len(places):
                packed.append((latent, firing_codec.pack_firings(places, flat[places])))
        cached.store_cache_shard(db, shard_row(ordinal, cache_id), packed)


def pending(db, cache_id=CACHE):
    found = {cache.id: cache for cache in caches.load_caches(db)}
    return cached.pending_shards(db, found[cache_id])


def back(firings):
    dense = np.zeros((6, 8), np.float32)
    dense[firings.contexts, firings.positions] = firings.values
    return dense


# Values that float16 holds exactly, beside a greatest of 8.
strengths = st.sampled_from([0.0, 0.0, 0.0, 0.25, 1.0, 8.0])


@given(hnp.arrays(np.float32, (6, 8, 3), elements=strengths))
def test_firings_come_back_over_all_shards(dense):
    db = tiny_results.memory()
    tiny_results.store_corpus(db)
    store_dense(db, dense)
    cache = caches.load_caches(db)[0]
    for latent in range(3):
        firings = cached.load_firings(db, cache, latent)
        np.testing.assert_array_equal(back(firings), dense[:, :, latent])
        assert (firings.contexts.dtype, firings.positions.dtype) == (np.int32, np.int32)
        order = firings.contexts.astype(int) * 8 + firings.positions
        assert (np.diff(order) > 0).all()
    found = dict(cached.iterate_firings(db, cache))
    assert list(found) == [latent for latent in range(3) if dense[:, :, latent].any()]
    for latent, firings in found.items():
        np.testing.assert_array_equal(back(firings), dense[:, :, latent])


def test_two_caches_and_two_corpora_in_one_file_are_kept_apart(db):
    tiny_results.store_corpus(db)
    # The other corpus has its contexts in one shard, whose number the first one uses too.
    other = replace(CORPUS, id="b2:other", n_contexts=2)
    caches.store_corpus(db, other, [replace_first(make_shards()[0], 0)])
    tiny_results.add_cache(db, "b2:second", other)
    first, second = np.zeros((6, 8, 2), np.float32), np.zeros((6, 8, 2), np.float32)
    first[0, 1, 0], first[5, 2, 0], second[1, 3, 0], second[0, 0, 1] = 1, 2, 4, 8
    store_dense(db, first)
    flat = second[:2]
    packed = [
        (latent, firing_codec.pack_firings(places, flat[:, :, latent].reshape(-1)[places]))
        for latent in range(2)
        for places in [np.flatnonzero(flat[:, :, latent].reshape(-1))]
    ]
    cached.store_cache_shard(db, shard_row(0, "b2:second"), packed)
    for cache in caches.load_caches(db):
        expected = first if cache.id == CACHE else second
        for latent in range(2):
            found = cached.load_firings(db, cache, latent)
            np.testing.assert_array_equal(back(found), expected[:, :, latent])
        for latent, found in cached.iterate_firings(db, cache):
            np.testing.assert_array_equal(back(found), expected[:, :, latent])


@pytest.mark.parametrize("block", [1, 7, 40, 1 << 20])
def test_runs_of_latents_are_cut_by_what_they_hold(db, monkeypatch, block):
    monkeypatch.setattr(cached, "BLOCK_FIRINGS", block)
    tiny_results.store_corpus(db)
    random = np.random.default_rng(0)
    # The busiest come first, as in coders whose latents are in order of importance.
    busy = 0.9 * 0.5 ** np.arange(8)
    dense = np.where(random.random((6, 8, 8)) < busy, random.integers(1, 9, (6, 8, 8)), 0)
    store_dense(db, dense.astype(np.float32))
    n_firings = int((dense > 0).sum())
    db.execute("update cache_shards set n_firings = ? where shard = 0", [n_firings])
    db.execute("update cache_shards set n_firings = 0 where shard > 0")
    db.execute("update coders set n_latents = 8")
    cache = caches.load_caches(db)[0]
    runs = list(cached.latent_blocks(db, cache))
    assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
    assert runs[-1][1] == 8
    sizes = [
        sum(len(row[0]) for row in db.execute(
            "select packed from firings where key & 16777215 = ?", [latent]))
        for latent in range(8)
    ]  # fmt: skip
    room = sum(sizes) / max(n_firings / block, 1)
    held = [sum(sizes[start:stop]) for start, stop in runs]
    assert all(size <= room or stop - start == 1 or not any(sizes[start + 1 : stop])
               for size, (start, stop) in zip(held, runs, strict=True))  # fmt: skip
    if 1 < block < n_firings / 3:
        assert runs[0][1] - runs[0][0] < runs[-1][1] - runs[-1][0], (
            "the busy ones have less company"
        )
    found = dict(cached.iterate_firings(db, cache))
    for latent in range(8):
        if dense[:, :, latent].any():
            np.testing.assert_array_equal(back(found[latent]), dense[:, :, latent])


def replace_first(shard, first):
    return replace(shard, first=first, ordinal=0)


def test_a_latent_that_never_fired_has_no_firings(db):
    tiny_results.store_corpus(db)
    cache = caches.load_caches(db)[0]
    found = cached.load_firings(db, cache, 3)
    assert (len(found.contexts), len(found.positions), len(found.values)) == (0, 0, 0)
    assert list(cached.iterate_firings(db, cache)) == []


def test_shards_are_pending_until_they_are_stored(db):
    tiny_results.store_corpus(db)
    assert pending(db) == [0, 1, 2]
    cached.store_cache_shard(db, shard_row(1), [])
    assert pending(db) == [0, 2]
    tiny_results.add_cache(db, "b2:other")
    assert pending(db, "b2:other") == [0, 1, 2]


def test_a_shard_is_stored_whole_or_not_at_all(db):
    tiny_results.store_corpus(db)

    def broken():
        yield 0, firing_codec.pack_firings(np.array([1]), np.array([1.0], np.float32))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached.store_cache_shard(db, shard_row(0), broken())
    assert pending(db) == [0, 1, 2]
    assert n_rows(db, "firings") == 0


def test_a_shard_that_is_stored_twice_is_there_once(db):
    tiny_results.store_corpus(db)
    packed = [(0, firing_codec.pack_firings(np.array([1]), np.array([1.0], np.float32)))]
    for _ in range(2):
        cached.store_cache_shard(db, shard_row(0), packed)
    assert (n_rows(db, "firings"), n_rows(db, "cache_shards")) == (1, 1)


# Caches and latents


def make_stats(latent, density=0.25):
    return LatentStats(latent, 12, 3, density, 8.0, 1.5, tuple(range(20)))


def finish(db, cache_id=CACHE, stats=()):
    caches.finish_cache(db, cache_id, stats)


def test_a_complete_cache_knows_what_was_counted_and_masked(db):
    tiny_results.store_corpus(db)
    for shard in range(3):
        cached.store_cache_shard(db, shard_row(shard, n_counted=10 + shard), [])
    assert caches.counted_positions(db, CACHE) == 10 + 11 + 12
    assert caches.load_caches(db)[0].n_counted is None
    finish(db, stats=[make_stats(0), make_stats(1)])
    assert caches.load_caches(db)[0].n_counted == 33
    # Two special tokens and one outlier in each of three shards.
    assert db.execute("select n_masked from caches").fetchone()[0] == 9


def test_a_cache_without_anything_masked_is_complete_too(db):
    tiny_results.store_corpus(db)
    cached.store_cache_shard(db, shard_row(0, n_masked={}), [])
    finish(db)
    assert db.execute("select n_counted, n_masked from caches").fetchone() == (10, 0)


def test_a_cache_is_not_complete_when_its_statistics_break_off(db):
    def broken():
        yield make_stats(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finish(db, stats=broken())
    assert n_rows(db, "latents") == 0
    assert caches.load_caches(db)[0].n_counted is None


def test_statistics_come_back(db):
    finish(db, stats=[make_stats(0), make_stats(2, density=0.5)])
    assert caches.load_latent(db, CACHE, 2) == make_stats(2, density=0.5)


def test_latents_are_found_by_density_both_ends_included(db):
    finish(db, stats=[make_stats(k, density) for k, density in enumerate([0, 0.1, 0.2, 0.3])])
    assert caches.latents_by_density(db, CACHE, 0.1, 0.2) == [1, 2]
    assert caches.latents_by_density(db, CACHE, 0.5, 1.0) == []
    assert caches.latents_by_density(db, "b2:other", 0.0, 1.0) == []


def test_a_cache_is_described_with_what_is_needed_to_read_from_it(db):
    (found,) = caches.load_caches(db)
    assert found == caches.CacheInfo(
        CACHE, CORPUS, "b2:subject", "/models/s", "b2:coder", "c", "layers.1.output", 4, None, 1
    )


def three_caches(db):
    for name in ("b2:aa11", "b2:aa22", "b2:bb33"):
        tiny_results.add_cache(db, name)
    db.execute("delete from caches where id = ?", [CACHE])
    for name in ("b2:aa11", "b2:aa22"):
        finish(db, name)


@pytest.mark.parametrize("wanted", ["aa1", "aa11", "b2:aa11", "b2:aa1"])
def test_a_cache_is_found_by_the_beginning_of_its_id(db, wanted):
    three_caches(db)
    assert caches.the_cache(db, wanted).id == "b2:aa11"


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        ("", UsageError, "several caches fit: any"),
        ("aa", UsageError, "several caches fit: aa"),
        ("cc", UsageError, "no cache has an id that begins with: cc"),
        ("x\x1b[2J", UsageError, "no cache has an id"),
        ("bb", ResultsError, "the cache is not complete"),
    ],
)
def test_a_cache_that_is_not_clear_or_not_complete_is_refused(db, wanted, kind, message):
    three_caches(db)
    with pytest.raises(kind, match=message) as caught:
        caches.the_cache(db, wanted)
    assert str(caught.value).isprintable()
    assert caught.value.hint


def test_the_only_cache_needs_no_name_and_no_cache_is_said(db):
    finish(db)
    assert caches.the_cache(db).id == CACHE
    db.execute("delete from caches")
    with pytest.raises(ResultsError, match="holds no cache"):
        caches.the_cache(db)


# Example sets


def assert_same_window(found, window):
    assert replace_values(found) == replace_values(window)
    # Five digits are kept.
    np.testing.assert_allclose(found.values, window.values, rtol=5e-5)
    assert found.values.dtype == np.float32


def replace_values(window):
    return (window.id, window.latent, window.context, window.start, window.tokens)


def test_an_example_set_comes_back(db):
    examples = make_examples()
    studies.store_example_set(db, CACHE, examples)
    found = studies.load_example_set(db, examples.id)
    assert (found.id, found.latent, found.sampler, found.settings, found.seed) == (
        examples.id, examples.latent, examples.sampler, examples.settings, examples.seed,
    )  # fmt: skip
    for role in ("shown", "scored"):
        for one, other in zip(getattr(found, role), getattr(examples, role), strict=True):
            assert one[1:] == other[1:]
            assert_same_window(one.window, other.window)
    assert studies.load_example_set(db, "b2:none") is None


def set_of(window):
    return replace(make_examples(), shown=(Placed(window, "decile_0", 1.0),), scored=())


odd_tokens = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["\x00", "\x1b[2J", "<<", '"', "'; drop table windows; --", "\u202e", "\r\n", "{{ x }}"]
)


@given(
    st.lists(
        st.tuples(odd_tokens, st.just(0.0) | st.floats(2.0**-149, 2.0**127, width=32)),
        min_size=1,
        max_size=6,
    )
)
def test_any_window_comes_back_and_its_marks_are_those_in_the_file(pairs):
    db = tiny_results.memory()
    tokens, values = zip(*pairs, strict=True)
    window = make_window(CACHE, 0, Place(1, 2, 3), tokens, np.array(values, np.float32))
    studies.store_example_set(db, CACHE, set_of(window))
    found = studies.load_example_set(db, make_examples().id).shown[0].window
    assert_same_window(found, window)
    assert ((found.values > 0) == (window.values > 0)).all()
    row = db.execute("select marked, max_value from windows").fetchone()
    assert row[0] == marked_text(found)
    assert np.float32(row[1]) == found.peak


def test_a_value_on_the_edge_of_a_mark_is_marked_alike_before_and_after_rounding(db):
    # 0.300004 is above 0.3 of the peak; rounded to five digits it is not.
    values = np.array([1.0, 0.300004], np.float32)
    window = make_window(CACHE, 0, Place(0, 0, 2), ("a", "b"), values)
    studies.store_example_set(db, CACHE, set_of(window))
    found = studies.load_example_set(db, make_examples().id).shown[0].window
    row = db.execute("select marked from windows").fetchone()
    assert row[0] == marked_text(found)


def test_an_example_set_is_stored_whole_or_not_at_all(db):
    examples = make_examples()
    broken = replace(examples, scored=(examples.scored[0]._replace(weight="many"),))
    with pytest.raises(sqlite3.IntegrityError):
        studies.store_example_set(db, CACHE, broken)
    assert (n_rows(db, "example_sets"), n_rows(db, "windows")) == (0, 0)


def test_an_example_set_stored_twice_is_there_once(db):
    for _ in range(2):
        studies.store_example_set(db, CACHE, make_examples())
    assert n_rows(db, "example_sets") == 1
    assert (n_rows(db, "windows"), n_rows(db, "example_set_windows")) == (4, 4)


def test_ids_in_the_file_follow_from_what_stands_beside_them(db):
    examples = make_examples(latent=2, seed=5)
    studies.store_example_set(db, CACHE, examples)
    row = next(db.query("select * from example_sets"))
    question = ["example_set", row["cache_id"], row["latent"], json.loads(row["settings"])]
    assert content_id([*question, row["seed"]]) == row["id"]
    for row in db.query("select * from windows"):
        place = [row["context"], row["start"], len(json.loads(row["tokens"]))]
        assert content_id([row["cache_id"], row["latent"], *place]) == row["id"]
    prompt = load_prompt("explain/small")
    add(db, "prompts", {"id": prompt.id, "name": prompt.name, "text": prompt.content()})
    row = next(db.query("select * from prompts where id = ?", [prompt.id]))
    assert content_id(json.loads(row["text"])) == row["id"]


# Explanations


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt_id": None, "engine_id": None, "explainer": "token_list"},
        {"text": None, "failure": "empty", "raw": ""},
        {"text": "nul \x00 and ' and \u202e", "raw": "\x1b[2J\n" * 9},
    ],
)
def test_an_explanation_comes_back(db, changes):
    stored = store_latent(db, make_examples(), **changes)
    assert studies.load_explanations(db, CACHE) == [stored]
    assert studies.load_explanations(db, "b2:other") == []
    assert studies.known(db, "explanations", stored.id)
    assert not studies.known(db, "explanations", "b2:other")


def test_an_explanation_has_either_a_text_or_a_reason(db):
    examples = make_examples()
    studies.store_example_set(db, CACHE, examples)
    for changes in ({"text": None}, {"failure": "empty"}):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            explanation = make_explanation(examples, **changes)
            studies.store_explanations(db, CACHE, [(explanation, USAGE)])
    assert studies.load_explanations(db, CACHE) == []


def test_explanations_are_in_order_of_latent_then_of_writing(db):
    for latent, name in ((2, "a"), (1, "z"), (1, "b"), (2, "c")):
        store_latent(db, make_examples(latent), name=name)
    assert [found.id for found in studies.load_explanations(db, CACHE)] == [
        "b2:z1", "b2:b1", "b2:a2", "b2:c2",
    ]  # fmt: skip


def test_what_was_answered_first_stays(db):
    examples = make_examples()
    store_latent(db, examples)
    store_latent(db, examples, text="another answer")
    assert [found.text for found in studies.load_explanations(db, CACHE)] == ["meaning 0"]


def test_explanations_are_made_alike_if_all_but_latent_and_windows_is_the_same(db):
    own = store_latent(db, make_examples(0))
    kin = [store_latent(db, make_examples(1)), store_latent(db, make_examples(0, seed=1), name="x")]
    assert {way_of(each) for each in kin} == {way_of(own)}
    others = [
        store_latent(db, make_examples(2), name="explainer", explainer="token_list"),
        store_latent(db, make_examples(2), name="prompt", prompt_id=None),
        store_latent(db, make_examples(2), name="engine", engine_id=None),
        store_latent(db, make_examples(2), name="settings", settings={"n_words": 25}),
    ]
    assert len({way_of(each) for each in (own, *others)}) == 5


# Trials


@pytest.fixture
def judged(db):
    """Two latents, and latent 0's explanation judged on both."""
    examples = [make_examples(0), make_examples(1)]
    explanations = [store_latent(db, each) for each in examples]
    trials = [make_trial(explanations[0], each, [0.5, None, -0.25]) for each in examples]
    for trial in trials:
        trial_rows.store_trials(db, [(trial, USAGE)], "engine")
    return examples, explanations, trials


def test_a_trial_comes_back_with_its_verdicts_in_the_order_of_window_ids(db, judged):
    examples, explanations, trials = judged
    (found,) = trial_rows.load_trials(db, examples[0].id, "detection", "{}", ENGINE)
    assert (found.id, found.explanation_id, found.control) == (
        trials[0].id, explanations[0].id, False,
    )  # fmt: skip
    assert list(found.verdicts) == sorted(trials[0].verdicts, key=lambda each: each.window_id)
    assert {(each.active, each.value, each.failure) for each in found.verdicts} == {
        (True, 0.5, None), (False, None, "engine: x"), (False, -0.25, None),
    }  # fmt: skip
    (control,) = trial_rows.load_trials(db, examples[1].id, "detection", "{}", ENGINE)
    assert control.control


def test_items_of_one_window_are_kept_apart_with_what_was_said_of_them(db, judged):
    examples, explanations, _ = judged
    window = examples[0].scored[0].window.id
    verdicts = (
        Verdict(window, True, 0.5, None, "right", {"per_token": -0.5, "stratum": "decile_3"}),
        Verdict(window, False, None, "not_finite", "wrong", {}),
    )
    trial = make_trial(explanations[0], examples[0], [0.0, 0.0, 0.0], id="b2:marks")
    trial = replace(trial, scorer="fuzzing", verdicts=verdicts[::-1])
    trial_rows.store_trials(db, [(trial, USAGE)], "engine")
    (found,) = trial_rows.load_trials(db, examples[0].id, "fuzzing", "{}", ENGINE)
    assert (found.verdicts, found.usage) == (verdicts, USAGE)


def test_trials_that_are_stored_together_are_there_together_or_not_at_all(db, judged):
    examples, explanations, _ = judged
    good = make_trial(explanations[1], examples[1], [1.0, 2.0, 3.0])
    bad = make_trial(explanations[1], examples[0], [1.0, math.nan, 3.0], id="b2:bad")
    with pytest.raises(sqlite3.IntegrityError):
        trial_rows.store_trials(db, [(good, USAGE), (bad, USAGE)], "engine")
    assert (n_rows(db, "trials"), n_rows(db, "verdicts")) == (2, 6)


def test_a_trial_without_an_explanation_comes_back(db, judged):
    examples, explanations, _ = judged
    trial = make_trial(explanations[0], examples[0], [1.0, 0.0, 1.0], id="b2:latent")
    trial = replace(trial, scorer="intruder", explanation_id=None)
    trial_rows.store_trials(db, [(trial, USAGE)], "engine")
    (found,) = trial_rows.load_trials(db, examples[0].id, "intruder", "{}", ENGINE)
    assert (found.id, found.explanation_id) == ("b2:latent", None)
    assert (0, None, examples[0].id, "intruder", "{}", ENGINE) in trial_rows.scored_groups(
        db, CACHE
    )


def make_steering(examples, **changes):
    windows = sorted(placed.window.id for placed in examples.scored)
    plain = {
        "id": "b2:steering",
        "example_set_id": examples.id,
        "settings": {"kl": 1.0},
        "strength": 2.5,
        "kl_tuned": 1.0,
        "kl_scored": 1.25,
        "promoted": {"tokens": [[" year", 0.5]]},
        "failure": None,
        "passages": tuple(
            Passage(window, f"in {window}", ("one", "one"), ("two\x00", "'; drop"))
            for window in windows
        ),
    }
    return Steering(**{**plain, **changes})


@pytest.mark.parametrize(
    "changes",
    [{}, {"strength": None, "kl_tuned": None, "failure": "not_reached", "passages": ()}],
)
def test_a_steering_comes_back_with_its_continuations(db, changes):
    store_latent(db, make_examples())
    steering = make_steering(make_examples(), **changes)
    steerings.store_steering(db, steering, 0.5)
    assert steerings.load_steering(db, "b2:steering") == steering
    assert steerings.load_steering(db, "b2:none") is None
    # It costs time; the explanation beside it cost 110 tokens and half a second.
    assert trial_rows.cost_by_latent(db, CACHE) == {0: (110, 1.0)}


@pytest.mark.parametrize(
    "other",
    [{"scorer": "fuzzing"}, {"settings": {"n": 2}}, {"model_id": EMBEDDER}],
)
def test_trials_of_another_scorer_settings_or_model_are_kept_apart(db, judged, other):
    examples, explanations, _ = judged
    trial = make_trial(explanations[0], examples[0], [1.0, 2.0, 3.0], id="b2:other", **other)
    judge = "embedder" if "model_id" in other else "engine"
    trial_rows.store_trials(db, [(trial, USAGE)], judge)
    found = trial_rows.load_trials(
        db,
        examples[0].id,
        trial.scorer,
        canonical_json(dict(trial.settings)),
        trial.model_id,
    )
    assert [row.id for row in found] == ["b2:other"]
    assert len(trial_rows.load_trials(db, examples[0].id, "detection", "{}", ENGINE)) == 1
    column = db.execute("select engine_id, embedder_id from trials where id = 'b2:other'")
    assert column.fetchone() == ((None, EMBEDDER) if judge == "embedder" else (ENGINE, None))


def test_a_trial_is_stored_whole_or_not_at_all(db, judged):
    examples, explanations, _ = judged
    bad = Verdict("b2:no_such_window", True, 1.0, None)
    for verdict in (bad, replace(bad, window_id=examples[0].scored[0].window.id, value=None)):
        trial = make_trial(explanations[1], examples[0], [1.0, 2.0, 3.0], id="b2:bad")
        with pytest.raises(sqlite3.IntegrityError):
            trial = replace(trial, verdicts=(trial.verdicts[1], verdict))
            trial_rows.store_trials(db, [(trial, USAGE)], "engine")
        assert not studies.known(db, "trials", "b2:bad")
    assert n_rows(db, "verdicts") == 6


def test_a_verdict_that_is_no_number_is_refused_rather_than_lost(db, judged):
    # SQLite stores NaN as null; the check of the table then wants a reason.
    examples, explanations, _ = judged
    trial = make_trial(explanations[1], examples[0], [1.0, math.nan, 3.0], id="b2:bad")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        trial_rows.store_trials(db, [(trial, USAGE)], "engine")


def test_a_trial_stored_twice_is_there_once(db, judged):
    trial_rows.store_trials(db, [(judged[2][0], USAGE)], "engine")
    assert (n_rows(db, "trials"), n_rows(db, "verdicts")) == (2, 6)


def test_only_own_trials_can_be_scored(db, judged):
    examples, explanations, _ = judged
    assert trial_rows.scored_groups(db, CACHE) == [
        (0, explanations[0].id, examples[0].id, "detection", "{}", ENGINE)
    ]
    assert trial_rows.scored_groups(db, "b2:other") == []


def test_the_margins_on_own_windows_leave_failures_out(db, judged):
    examples, explanations, _ = judged
    windows = [placed.window.id for placed in examples[0].scored]
    found = trial_rows.own_margins(db, explanations[0].id, "detection")
    assert found == {windows[0]: 0.5, windows[2]: -0.25}
    assert trial_rows.own_margins(db, explanations[1].id, "detection") == {}


def test_the_cost_of_a_latent_is_its_explanations_and_the_trials_on_its_windows(db, judged):
    # Latent 0: an explanation and its own trial; latent 1: an explanation, and latent 0's
    # explanation as a control on its windows. Each was 100 + 10 tokens and half a second.
    assert trial_rows.cost_by_latent(db, CACHE) == {0: (220, 1.0), 1: (220, 1.0)}
    examples = make_examples(1, seed=1)
    studies.store_example_set(db, CACHE, examples)
    explanation = make_explanation(examples, "again")
    studies.store_explanations(db, CACHE, [(explanation, Usage(1, 2, 0.25))])
    assert trial_rows.cost_by_latent(db, CACHE) == {0: (220, 1.0), 1: (223, 1.25)}
    assert trial_rows.cost_by_latent(db, "b2:other") == {}


# Scores


def make_score(explanation, variant="raw", value=0.75, **changes):
    nothing = Estimate(math.nan, math.nan, math.nan)
    score = Score(
        explanation.example_set_id, explanation.id, "detection", variant, "auroc",
        Estimate(value, 0.5, 0.9), math.nan, nothing, 0.25, 20, 30, 2, 0,
        {"strata": {"random": {"n": 30, "auroc": math.nan}}, "recall": Estimate(0.5, 0.25, 1.0)},
        None, Usage(100, 10, 0.5),
    )  # fmt: skip
    return replace(score, **changes)


def test_scores_come_back_with_their_explanation_and_nothing_for_no_number(db, judged):
    _, explanations, _ = judged
    trial_rows.replace_scores(db, CACHE, [(make_score(explanations[0]), "{}", ENGINE)])
    (row,) = trial_rows.load_scores(db, CACHE)
    expected = {
        "explanation_id": explanations[0].id, "scorer": "detection", "settings": "{}",
        "model_id": ENGINE, "variant": "raw", "statistic": "auroc", "value": 0.75, "low": 0.5,
        "high": 0.9, "null_value": None, "difference": None, "difference_low": None,
        "difference_high": None, "n_active": 20, "n_silent": 30, "n_failed": 2, "n_controls": 0,
        "latent": 0, "text": "meaning 0", "failure": None, "explainer": "llm",
        "example_set_id": explanations[0].example_set_id, "p_value": 0.25, "q_value": None,
        "reason": None, "tokens": 110, "seconds": 0.5,
        # JSON has no number for NaN.
        "metrics": {"strata": {"random": {"n": 30, "auroc": None}}, "recall": [0.5, 0.25, 1.0]},
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected


def test_new_scores_take_the_place_of_all_old_ones_of_their_cache_only(db, judged):
    _, explanations, _ = judged
    tiny_results.add_cache(db, "b2:second")
    examples = replace(make_examples(0), id="b2:elsewhere")
    other = make_explanation(examples, "elsewhere")
    db.execute(
        "insert into example_sets select 'b2:elsewhere', 'b2:second', latent, sampler, settings,"
        " seed from example_sets limit 1"
    )
    studies.store_explanations(db, "b2:second", [(other, USAGE)])
    trial_rows.replace_scores(db, "b2:second", [(make_score(other), "{}", ENGINE)])
    for variant in ("raw", "relative"):
        score = make_score(explanations[0], variant)
        trial_rows.replace_scores(db, CACHE, [(score, "{}", ENGINE)])
    assert [row["variant"] for row in trial_rows.load_scores(db, CACHE)] == ["relative"]
    assert [row["variant"] for row in trial_rows.load_scores(db, "b2:second")] == ["raw"]


def test_scores_are_replaced_together_or_stay(db, judged):
    _, explanations, _ = judged
    trial_rows.replace_scores(db, CACHE, [(make_score(explanations[0]), "{}", ENGINE)])
    with pytest.raises(sqlite3.IntegrityError):
        trial_rows.replace_scores(
            db, CACHE, [(make_score(explanations[0], explanation_id="b2:none"), "{}", ENGINE)]
        )
    assert [row["value"] for row in trial_rows.load_scores(db, CACHE)] == [0.75]


def test_a_score_of_a_latent_needs_no_explanation(db, judged):
    _, explanations, _ = judged
    score = make_score(explanations[0], explanation_id=None, scorer="intruder", reason="none")
    trial_rows.replace_scores(db, CACHE, [(score, "{}", ENGINE)])
    (row,) = trial_rows.load_scores(db, CACHE)
    assert (row["latent"], row["scorer"], row["reason"]) == (0, "intruder", "none")
    assert (row["explanation_id"], row["text"], row["explainer"]) == (None, None, None)


def test_one_score_for_each_way_also_where_no_explanation_tells_them_apart(db, judged):
    _, explanations, _ = judged
    score = make_score(explanations[0], explanation_id=None)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        trial_rows.replace_scores(db, CACHE, [(score, "{}", ENGINE)] * 2)


def test_q_values_are_put_beside_the_scores_they_belong_to(db, judged):
    _, explanations, _ = judged
    some = [(make_score(explanations[0], name), "{}", ENGINE) for name in ("raw", "relative")]
    trial_rows.replace_scores(db, CACHE, some)
    numbers = {row["variant"]: row["number"] for row in trial_rows.load_scores(db, CACHE)}
    trial_rows.set_q_values(db, [(0.125, numbers["relative"]), (None, numbers["raw"])])
    found = {row["variant"]: row["q_value"] for row in trial_rows.load_scores(db, CACHE)}
    assert found == {"raw": None, "relative": 0.125}


def test_rows_are_counted(db, judged):
    assert studies.count(db, "verdicts") == 6
    assert asdict(CORPUS)["id"] == db.execute("select id from corpora").fetchone()[0]
    assert studies.known(db, "prompts", PROMPT)
