"""A cache holds what a slow dense reading gives, whatever the batches, and survives a kill."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_study
import torch

from lite_interp import cache as cache_module
from lite_interp import study
from lite_interp.cache import N_BINS, CacheSettings, Reader, pack, read_shard
from lite_interp.db import cached, caches
from lite_interp.db.file import read_results
from lite_interp.errors import SubjectError
from lite_interp.firing_codec import unpack_firings
from lite_interp.fit import Site, fit_sample, read_sample
from lite_interp.loading import load_job, load_jobs
from lite_interp.pipeline import cache_corpus
from lite_interp.records import ContextShard
from lite_interp.sae import Encoder, load_coder
from lite_interp.sae import coder as coder_module
from lite_interp.subject import Subject, load_subject

N_CTX = 24


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_study.write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def subject(parts):
    return load_subject(parts.subject, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reader(parts, subject):
    coder = load_coder(parts.coder)
    point = subject.resolve("layers.1")
    site = Site(point, point, frozenset({tiny.BOS, tiny.EOS, tiny.PAD, tiny.UNKNOWN}))
    return Reader(Encoder(coder, None), site, CacheSettings(True, 1.2), median_norm=3.0)


@pytest.fixture(scope="module")
def read(subject):
    """Reads and packs a shard for one reader."""

    def read(shard, reader, batch_tokens=4096):
        (found,), _ = read_shard(shard, subject, [reader], batch_tokens)
        return pack(found, shard.first * shard.token_ids.shape[1])

    return read


@pytest.fixture(scope="module")
def shard():
    """Contexts of all lengths, a BOS before each and an end token inside some."""
    draw = np.random.default_rng(3)
    lengths = draw.integers(1, N_CTX + 1, 40).astype(np.int32)
    token_ids = draw.integers(4, tiny.N_VOCAB, (40, N_CTX)).astype(np.int32)
    token_ids[:, 0] = tiny.BOS
    token_ids[::5, 7] = tiny.EOS
    token_ids[np.arange(N_CTX) >= lengths[:, None]] = 0
    return ContextShard(0, 100, lengths, token_ids)


def slow_twin(shard, reader, subject):
    """(n, t, m) activations, context by context, all latents dense; (n, t) 0 counted, 1, 2 why."""
    coder, multiple = reader.encoder.coder, reader.settings.outlier_multiple
    dense = np.zeros((*shard.token_ids.shape, coder.n_latents), np.float32)
    why = np.full(shard.token_ids.shape, 3)
    for row, (length, ids) in enumerate(zip(shard.lengths, shard.token_ids, strict=True)):
        read = subject.read(ids[None, :length], [int(length)], [reader.site.reads])
        x = read[reader.site.reads][0].float()
        p = torch.relu((x - coder.pre_bias) @ coder.W_enc + coder.b_enc)
        kept = p.masked_fill(p < p.topk(coder.k, dim=-1).values[:, -1:], 0)
        special = np.isin(ids[:length], list(reader.site.special_ids))
        long = x.norm(dim=-1).numpy() > multiple * reader.median_norm
        why[row, :length] = np.where(special, 1, np.where(long, 2, 0))
        dense[row, :length] = kept.numpy()
    dense[why > 0] = 0
    return dense, why


def unpacked(result, shape):
    """(n, t, m) the firings of a shard, dense."""
    dense = np.zeros(shape, np.float32)
    for latent, blob in result.blobs:
        places, values = unpack_firings(blob)
        dense[places // shape[1], places % shape[1], latent] = values
    return dense


def test_firings_are_those_of_a_slow_dense_reading(shard, reader, read, subject):
    expected, why = slow_twin(shard, reader, subject)
    result = read(shard, reader)
    found = unpacked(result, expected.shape)
    assert ((found > 0) == (expected > 0)).all()
    np.testing.assert_allclose(found, expected, rtol=2**-10)
    assert result.n_firings == (expected > 0).sum() > 500
    assert result.n_counted == (why == 0).sum()
    assert result.n_masked == {"special": (why == 1).sum(), "outlier": (why == 2).sum()}
    assert min(result.n_masked.values()) > 10
    assert [latent for latent, _ in result.blobs] == sorted(set(np.nonzero(expected)[2]))


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_the_size_of_batches_changes_nothing_but_the_last_digits(shard, reader, read, batch_tokens):
    one = read(shard, reader)
    other = read(shard, reader, batch_tokens)
    shape = (*shard.token_ids.shape, reader.encoder.coder.n_latents)
    assert (other.n_counted, other.n_masked) == (one.n_counted, one.n_masked)
    np.testing.assert_allclose(unpacked(other, shape), unpacked(one, shape), rtol=2**-9)


def test_what_stands_behind_a_context_is_never_read(shard, reader, read):
    noisy = shard.token_ids.copy()
    noisy[np.arange(N_CTX) >= shard.lengths[:, None]] = 99
    wider = np.pad(noisy, ((0, 0), (0, 5)), constant_values=77)
    one = read(shard, reader)
    assert read(replace(shard, token_ids=noisy), reader).blobs == one.blobs
    shape = (*shard.token_ids.shape, reader.encoder.coder.n_latents)
    found = unpacked(read(replace(shard, token_ids=wider), reader), (40, N_CTX + 5, shape[2]))
    np.testing.assert_array_equal(found[:, :N_CTX], unpacked(one, shape))


def test_a_shard_that_is_read_twice_gives_the_same_bytes(shard, reader, read):
    assert read(shard, reader).blobs == read(shard, reader).blobs


def test_masks_can_be_left_off(shard, reader, read):
    result = read(shard, replace(reader, settings=CacheSettings(False, 0.0)))
    assert result.n_masked == {"special": 0, "outlier": 0}
    assert result.n_counted == shard.lengths.sum()


def test_a_shard_in_which_nothing_fires_or_counts_is_a_shard(shard, reader, read):
    only_bos = replace(
        shard, lengths=np.ones(2, np.int32), token_ids=np.zeros((2, N_CTX), np.int32)
    )
    result = read(only_bos, reader)
    assert (result.blobs, result.n_firings, result.n_counted) == ([], 0, 0)
    assert result.n_masked == {"special": 2, "outlier": 0}


def test_no_more_than_a_block_of_tokens_is_ever_dense(shard, reader, read, monkeypatch):
    n_tokens, m = 8, reader.encoder.coder.n_latents
    monkeypatch.setattr(coder_module, "BLOCK_ELEMENTS", n_tokens * m)
    seen = []
    real = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args: seen.append(real(*args)) or seen[-1])
    read(shard, reader)
    dense = [tensor for tensor in seen if tensor.shape[-1] == m]
    assert len(dense) > 20
    assert max(tensor.numel() for tensor in dense) <= n_tokens * m


def test_the_fit_is_measured_on_real_text_without_its_sinks(shard, reader, subject):
    coder = reader.encoder.coder
    sample = fit_sample(read_sample(iter([shard]), subject, reader.site), coder)
    _, why = slow_twin(shard, replace(reader, settings=CacheSettings(True, 1e9)), subject)
    assert sample.fit.n_tokens == (why == 0).sum()
    assert sample.fit.fvu < 0.5
    norms = []
    for ids, length in zip(shard.token_ids, shard.lengths, strict=True):
        read = subject.read(ids[None, :length], [int(length)], [reader.site.reads])
        x = read[reader.site.reads][0].norm(dim=-1).numpy()
        norms += list(x[~np.isin(ids[:length], list(reader.site.special_ids))])
    assert sample.median_norm == pytest.approx(sorted(norms)[(len(norms) - 1) // 2])


@pytest.fixture
def small_shards(monkeypatch):
    """Eight contexts a shard."""
    monkeypatch.setattr(study.making, "SHARD_TOKENS", 8 * tiny_study.N_CTX)


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """A cache that was never interrupted."""
    path = tmp_path_factory.mktemp("whole") / "whole.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.making, "SHARD_TOKENS", 8 * tiny_study.N_CTX)
        cache_corpus(path, tiny_study.cache_job(parts), tiny_study.Told())
    return path


def test_statistics_are_those_of_the_dense_matrix(parts, whole):
    with read_results(whole) as db:
        (cache,) = caches.load_caches(db)
        lengths, token_ids = caches.load_tokens(db, cache.corpus)
        stats = [caches.load_latent(db, cache.id, latent) for latent in range(cache.n_latents)]
        loaded = [cached.load_firings(db, cache, latent) for latent in range(cache.n_latents)]
        n_masked = db.execute("select n_masked from caches").fetchone()[0]
    job = load_job(tiny_study.cache_job(parts), tiny_study.Told())
    encoder = Encoder(job.coder, None)
    reader = Reader(encoder, job.site, job.settings, job.sample.median_norm)
    dense, why = slow_twin(ContextShard(0, 0, lengths, token_ids), reader, job.subject)
    assert cache.n_counted == (why == 0).sum()
    assert n_masked == np.isin(why, [1, 2]).sum()
    assert len(stats) == 32
    for latent, (found, firings) in enumerate(zip(stats, loaded, strict=True)):
        values = dense[:, :, latent]
        assert found.n_firings == (values > 0).sum()
        assert found.n_contexts == (values > 0).any(axis=1).sum()
        assert found.density == pytest.approx((values > 0).sum() / cache.n_counted)
        assert found.max_value == pytest.approx(values.max(), rel=2**-10)
        assert sum(found.histogram) == found.n_firings
        assert len(found.histogram) == N_BINS
        rows, columns = np.nonzero(values)
        np.testing.assert_array_equal(firings.contexts, rows)
        np.testing.assert_array_equal(firings.positions, columns)
        np.testing.assert_allclose(firings.values, values[rows, columns], rtol=2**-10)
        if found.n_firings:
            assert found.mean_value == pytest.approx(values[values > 0].mean(), rel=2**-10)
            counts, _ = np.histogram(firings.values, N_BINS, (0, found.max_value))
            assert found.histogram == tuple(counts)


def test_a_cache_that_was_interrupted_ends_as_if_it_had_not(parts, whole, tmp_path, small_shards):
    path = tmp_path / "results.db"
    job = tiny_study.cache_job(parts)
    for n_done in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            cache_corpus(path, job, tiny_study.Told(stop_after=n_done))
    assert len(tiny_study.dump(path, "cache_shards")["cache_shards"]) == 7
    told = tiny_study.Told()
    cache_corpus(path, job, told)
    assert told.totals == {"caching": len(tiny_study.dump(whole)["cache_shards"]) - 7}
    assert tiny_study.dump(path) == tiny_study.dump(whole)


def test_a_second_run_does_nothing(parts, whole, small_shards):
    before = tiny_study.dump(whole)
    told = tiny_study.Told()
    cache_corpus(whole, tiny_study.cache_job(parts), told)
    assert told.totals == {"caching": 0}
    assert tiny_study.dump(whole) == before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny_study
from lite_interp import cache as cache_module
from lite_interp import study
from lite_interp.db import cached
from lite_interp.pipeline import cache_corpus

study.making.SHARD_TOKENS = 8 * tiny_study.N_CTX
store, left = cached.store_cache_shard, [3]

def half_stored(db, row, packed):
    left[0] -= 1
    def until_killed():
        for number, pair in enumerate(packed):
            if not left[0] and number == len(packed) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair
    store(db, row, until_killed())

cached.store_cache_shard = half_stored
parts = tiny_study.Parts(*map(Path, {parts!r}))
cache_corpus(Path({results!r}), tiny_study.cache_job(parts), tiny_study.Told())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_cache_that_was_killed_within_a_shard_goes_on(parts, whole, tmp_path, small_shards):
    path = tmp_path / "results.db"
    code = KILLED.format(
        tests=str(Path(__file__).parent), parts=list(map(str, parts)), results=str(path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = tiny_study.Told()
    cache_corpus(path, tiny_study.cache_job(parts), told)
    assert told.totals == {"caching": len(tiny_study.dump(whole)["cache_shards"]) - 2}
    assert tiny_study.dump(path) == tiny_study.dump(whole)


def test_another_number_of_latents_kept_is_another_cache(parts, tmp_path):
    """The same weights under another config give other firings: never taken for the same."""
    path = tmp_path / "results.db"
    job = tiny_study.cache_job(parts)
    (first,) = cache_corpus(path, job, tiny_study.Told())
    other = tiny.write_trained_like(tmp_path / "coder", "layers.1", k=2)
    told = tiny_study.Told()
    (second,) = cache_corpus(
        path, job._replace(coder=study.CoderSection(path=str(other), force=True)), told
    )
    assert second != first
    assert told.totals["caching"] > 0


def test_two_coders_are_read_in_one_pass_as_each_would_be_alone(
    parts, tmp_path, small_shards, monkeypatch
):
    """At different layers; one has many latents, so its shards are longer."""
    wide = tiny.write_trained_like(tmp_path / "wide", "layers.0", n_latents=512)
    other = study.CoderSection(path=str(wide), force=True)
    job = tiny_study.cache_job(parts, batch_tokens=512)._replace(others=(other,))
    loaded = load_jobs(job, tiny_study.Told())
    passes, real = [], Subject.read
    monkeypatch.setattr(Subject, "read", lambda *args: passes.append(1) or real(*args))

    def cache_of(name, *some):
        passes.clear()
        return cache_corpus(tmp_path / name, job, tiny_study.Told(), some), len(passes)

    names, n_passes = cache_of("both.db", *loaded)
    both, alone = tmp_path / "both.db", [tmp_path / "first.db", tmp_path / "second.db"]
    for number, path in enumerate(alone):
        assert cache_of(path.name, loaded[number]) == ([names[number]], n_passes)
    with read_results(both) as db:
        spans = {cache.id: cache.span for cache in caches.load_caches(db)}
    assert [spans[name] for name in names] == [1, 4]
    for table in ("cache_shards", "latents", "latent_details"):
        rows = [tiny_study.dump(path, table)[table] for path in alone]
        assert sorted(tiny_study.dump(both, table)[table]) == sorted(rows[0] + rows[1])
    for name, path in zip(names, alone, strict=True):
        assert firings_of(both, name) == firings_of(path, name)


def firings_of(path, name):
    """(shard, latent, blob) of one cache."""
    with read_results(path) as db:
        number = {cache.id: cache.number for cache in caches.load_caches(db)}[name]
        rows = db.execute(
            "select shard, latent, packed from firings where cache = ? order by key", [number]
        )
        return rows.fetchall()


def test_a_coder_that_is_named_twice_is_cached_once(parts, tmp_path):
    job = tiny_study.cache_job(parts)
    names = cache_corpus(tmp_path / "x.db", job._replace(others=(job.coder,)), tiny_study.Told())
    assert len(names) == 1


def test_a_part_of_the_shards_is_a_part_of_the_cache(parts, tmp_path, small_shards):
    job, n_rows = tiny_study.cache_job(parts), []
    for index in (1, 2, 3):
        path, told = tmp_path / f"{index}.db", tiny_study.Told()
        cache_corpus(path, job, told, part=(index, 3))
        assert any("merge the others into it" in line for line in told.lines)
        with read_results(path) as db:
            (cache,) = caches.load_caches(db)
            shards = [shard for (shard,) in db.execute("select shard from cache_shards")]
            assert {shard % 3 for shard in shards} == {index - 1}
            assert cache.n_counted is None
            n_rows.append(len(shards))
    assert sum(n_rows) == n_shards_of(parts, tmp_path) > 10


def n_shards_of(parts, tmp_path):
    path = tmp_path / "count.db"
    cache_corpus(path, tiny_study.cache_job(parts), tiny_study.Told())
    with read_results(path) as db:
        return cached.n_shards(db, caches.load_caches(db)[0])


def test_where_memory_does_not_suffice_fewer_tokens_are_read_at_once(parts, tmp_path, small_shards):
    """The same firings as with small batches from the beginning; what sufficed is remembered."""
    seen, real = [], Subject.read

    def short(self, token_ids, lengths, points):
        seen.append(np.prod(token_ids.shape))
        if np.prod(token_ids.shape) > 100:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real(self, token_ids, lengths, points)

    few, small = tmp_path / "few.db", tmp_path / "small.db"
    loaded = [load_job(tiny_study.cache_job(parts), tiny_study.Told())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "read", short)
        cache_corpus(few, tiny_study.cache_job(parts, batch_tokens=256), tiny_study.Told(), loaded)
    assert max(seen) > 100
    # Once for the first shard: 256, 128, then 64 tokens.
    assert sum(size > 100 for size in seen) == 2
    job = tiny_study.cache_job(parts, batch_tokens=64)
    cache_corpus(small, job, tiny_study.Told(), loaded)
    assert tiny_study.dump(few) == tiny_study.dump(small)
    assert {row[0] for row in rows_of(few, "select batch_tokens from cache_shards")} == {64}


def rows_of(path, query):
    with read_results(path) as db:
        return db.execute(query).fetchall()


def test_a_run_that_goes_on_reads_as_many_tokens_at_once_as_before(parts, tmp_path, small_shards):
    path, job = tmp_path / "results.db", tiny_study.cache_job(parts)
    with pytest.raises(KeyboardInterrupt):
        small = job._replace(settings=study.CacheSection(batch_tokens=64))
        cache_corpus(path, small, tiny_study.Told(stop_after=2))
    cache_corpus(path, job, tiny_study.Told())
    assert {row[0] for row in rows_of(path, "select batch_tokens from cache_shards")} == {64}


def test_no_memory_for_a_single_context_is_one_line(shard, reader, subject, monkeypatch):
    def none(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Subject, "read", none)
    with pytest.raises(SubjectError, match="memory does not suffice") as caught:
        read_shard(shard, subject, [reader], 4096)
    assert caught.value.hint


def test_another_failure_of_the_subject_is_no_lack_of_memory(shard, reader, subject, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Subject, "read", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        read_shard(shard, subject, [reader], 4096)


def test_activations_that_are_no_numbers_are_refused(shard, reader, subject, monkeypatch):
    real = Subject.read

    def overflowing(*args):
        found = real(*args)
        return {
            point: rows.masked_fill(rows == rows.max(), np.inf) for point, rows in found.items()
        }

    monkeypatch.setattr(Subject, "read", overflowing)
    with pytest.raises(SubjectError, match="no numbers at") as caught:
        read_shard(shard, subject, [reader], 4096)
    assert "float32" in caught.value.hint


@pytest.mark.parametrize("block", [1, 100, 3000])
def test_blocks_of_latents_are_packed_to_the_same_bytes(shard, reader, read, block, monkeypatch):
    whole = read(shard, reader).blobs
    monkeypatch.setattr(cache_module, "BLOCK_FIRINGS", block)
    assert read(shard, reader).blobs == whole


@pytest.mark.parametrize(
    ("n_latents", "shard_tokens", "expected"),
    [(32, 65_536, 1), (16_384, 65_536, 1), (65_536, 65_536, 2), (131_072, 65_536, 4)],
)
def test_shards_of_wide_caches_are_longer(n_latents, shard_tokens, expected):
    assert cache_module.span(n_latents, shard_tokens) == expected
