"""Bytes and speed of packed firings, ours beside zstandard, pcodec and blosc2.

    python -m venv peers && peers/bin/pip install numpy zstandard pcodec blosc2
    PYTHONPATH=. peers/bin/python bench/compression.py --results FILE [--latents N] [--json]

Each way makes a blob for each latent in each shard, so that one latent can be read alone.
Two sets: the firings of the first cache of a results file, and as many synthetic latents as a wide
coder has, with k 32 and shards so large that 64 of them fall on a latent, log-normal densities as
unlike as the real ones, and values drawn from the real latents.

All begin with the same arrays and end with the same ones: places as gaps, values as float16 over a
power of two, what our own blobs hold too. The peers' blobs begin with a count and an exponent of
three bytes. One thread. Prints a table, or with --json a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import blosc2
import numpy as np
import zstandard
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from lite_interp.firing_codec import (
    PackedFirings,
    pack_all,
    pack_firings,
    unpack_all,
    unpack_firings,
)

K, PER_LATENT = 32, 64
N_READ = 500
"""Latents read alone, one after the other, for the time of one."""


class Arrays(NamedTuple):
    """What a peer packs and reads: of one latent, or of all."""

    gaps: NDArray[np.unsignedinteger]
    """(n,) places between firings, uint16 where that is enough, else uint32."""
    values: NDArray[np.uint16]
    """(n,) bits of the float16."""


class Peer(NamedTuple):
    """One way to turn the arrays of a latent into bytes."""

    pack: Callable[[Arrays], bytes]
    """Bytes of one latent."""
    unpack: Callable[[bytes, int, np.dtype[Any]], Arrays]
    """From bytes, number of firings and type of the gaps."""


def plain(arrays: Arrays) -> bytes:
    """Gaps, then values, number after number."""
    return arrays.gaps.tobytes() + arrays.values.tobytes()


def from_plain(data: bytes, n: int, dtype: np.dtype[Any]) -> Arrays:
    """What `plain` made."""
    middle = n * dtype.itemsize
    return Arrays(np.frombuffer(data[:middle], dtype), np.frombuffer(data[middle:], "<u2"))


def shuffled(arrays: Arrays) -> bytes:
    """All lowest bytes, then all second ones, and so on."""
    return b"".join(each.view(np.uint8).reshape(len(each), -1).T.tobytes() for each in arrays)


def from_shuffled(data: bytes, n: int, dtype: np.dtype[Any]) -> Arrays:
    """What `shuffled` made."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, n)
    gaps, values = rows[: dtype.itemsize].T, rows[dtype.itemsize :].T
    return Arrays(gaps.copy().view(dtype)[:, 0], values.copy().view("<u2")[:, 0])


def varints(arrays: Arrays) -> bytes:
    """Gaps in bytes of seven bits, the last one below 128; values with their bytes apart."""
    gaps = arrays.gaps.astype(np.int64)
    pieces = gaps[:, None] >> np.array([0, 7, 14, 21, 28])
    more = np.concatenate([pieces[:, 1:] > 0, np.zeros((len(gaps), 1), bool)], 1)
    used = np.concatenate([np.ones((len(gaps), 1), bool), more[:, :-1]], 1)
    data = (pieces & 127 | more << 7).astype(np.uint8)[used].tobytes()
    return arrays.values.view(np.uint8).reshape(-1, 2).T.tobytes() + data


def from_varints(data: bytes, n: int, dtype: np.dtype[Any]) -> Arrays:
    """What `varints` made."""
    values = np.frombuffer(data[: 2 * n], np.uint8).reshape(2, n).T.copy().view("<u2")[:, 0]
    pieces = np.frombuffer(data[2 * n :], np.uint8).astype(np.int64)
    ends = np.flatnonzero(pieces < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(pieces)) - np.repeat(starts, ends + 1 - starts)
    gaps = np.add.reduceat((pieces & 127) << 7 * place, starts)
    return Arrays(gaps.astype(dtype), values)


LAYOUTS = {
    "plain": (plain, from_plain),
    "shuffle": (shuffled, from_shuffled),
    "varint": (varints, from_varints),
}


def zstd(layout: str, level: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> Peer:
    """Zstandard over one of the layouts."""
    to_bytes, from_bytes = LAYOUTS[layout]
    write = zstandard.ZstdCompressor(level, dictionary, write_checksum=False, write_dict_id=False)
    read = zstandard.ZstdDecompressor(dictionary)
    return Peer(
        lambda arrays: write.compress(to_bytes(arrays)),
        lambda data, n, dtype: from_bytes(read.decompress(data), n, dtype),
    )


def pcodec(level: int) -> Peer:
    """pcodec: gaps and values one after the other, each with its own head."""
    config = ChunkConfig(compression_level=level)

    def pack(arrays: Arrays) -> bytes:
        gaps, values = (bytes(standalone.simple_compress(each, config)) for each in arrays)
        return struct.pack("<I", len(gaps))[:3] + gaps + values

    def unpack(data: bytes, n: int, dtype: np.dtype[Any]) -> Arrays:
        middle = 3 + int.from_bytes(data[:3], "little")
        gaps = standalone.simple_decompress(data[3:middle])
        return Arrays(gaps, standalone.simple_decompress(data[middle:]))

    return Peer(pack, unpack)


def blosc(codec: blosc2.Codec, filter: blosc2.Filter) -> Peer:
    """blosc2 over gaps and values, at its level 5; bytes of 2 or 4 as the gaps have."""

    def pack(arrays: Arrays) -> bytes:
        options = {"codec": codec, "filters": [filter], "filters_meta": [0], "clevel": 5}
        size = arrays.gaps.itemsize
        return blosc2.compress2(plain(arrays), typesize=size, nthreads=1, **options)

    def unpack(data: bytes, n: int, dtype: np.dtype[Any]) -> Arrays:
        return from_plain(blosc2.decompress2(data, nthreads=1), n, dtype)

    return Peer(pack, unpack)


def peers(firings: PackedFirings) -> dict[str, tuple[Peer, int]]:
    """Every peer, with the bytes that it needs once."""
    samples = [shuffled(each) for each in split(arrays_of(firings)[0], firings.starts)[::8]]
    trained = zstandard.train_dictionary(110_000, samples)
    found = {
        **{f"zstandard {level}": (zstd("plain", level), 0) for level in (3, 9)},
        **{f"zstandard {level}, bytes shuffled": (zstd("shuffle", level), 0) for level in (3, 9)},
        **{f"zstandard {level}, varint gaps": (zstd("varint", level), 0) for level in (3, 9)},
        "zstandard 9, shuffled, dictionary": (zstd("shuffle", 9, trained), len(trained)),
        **{f"pcodec {level}": (pcodec(level), 0) for level in (4, 8)},
    }
    for codec in (blosc2.Codec.LZ4, blosc2.Codec.ZSTD):
        for filter in (blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE):
            found[f"blosc2 {codec.name} {filter.name}".lower()] = blosc(codec, filter), 0
    return found


def arrays_of(firings: PackedFirings) -> tuple[Arrays, NDArray[np.int64]]:
    """Gaps and float16 of all latents, and (m,) exponents."""
    firsts, n = firings.starts[:-1], np.diff(firings.starts)
    gaps = np.diff(firings.places, prepend=-1) - 1
    gaps[firsts] = firings.places[firsts]
    exponents = np.frexp(np.maximum.reduceat(firings.values, firsts))[1] - 1
    values = firings.values * np.repeat(np.ldexp(1.0, -exponents), n)
    dtype = "<u2" if gaps.max() < 1 << 16 else "<u4"
    return Arrays(gaps.astype(dtype), values.astype("<f2").view("<u2")), exponents


def split(arrays: Arrays, starts: NDArray[np.int64]) -> list[Arrays]:
    """The arrays of each latent."""
    edges = starts.tolist()
    return [
        Arrays(arrays.gaps[first:end], arrays.values[first:end])
        for first, end in zip(edges[:-1], edges[1:], strict=True)
    ]


def pack_by(peer: Peer, firings: PackedFirings) -> list[bytes]:
    """A blob for each latent."""
    arrays, exponents = arrays_of(firings)
    parts = zip(split(arrays, firings.starts), (exponents + 149 & 255).tolist(), strict=True)
    head = struct.Struct("<HB").pack
    return [head(len(part.gaps) & 0xFFFF, exponent) + peer.pack(part) for part, exponent in parts]


def unpack_by(
    peer: Peer, counts: list[int], dtype: np.dtype[Any], blobs: list[bytes]
) -> PackedFirings:
    """What `pack_by` made; the counts are given, so that they can be of any size."""
    parts = [peer.unpack(blob[3:], n, dtype) for blob, n in zip(blobs, counts, strict=True)]
    starts, n = np.cumsum([0, *counts]), np.array(counts)
    sums = np.cumsum(np.concatenate([part.gaps for part in parts]).astype(np.int64) + 1)
    before = np.concatenate([[0], sums])[starts[:-1]]
    exponents = np.array([blob[2] for blob in blobs]) - 149
    values = np.concatenate([part.values for part in parts]).view("<f2").astype(np.float64)
    values = (values * np.repeat(np.ldexp(1.0, exponents), n)).astype(np.float32)
    return PackedFirings(starts, sums - np.repeat(before, n) - 1, values)


def all_at_once(firings: PackedFirings) -> list[bytes]:
    """Ours."""
    return pack_all(*firings)


def one_by_one(firings: PackedFirings) -> list[bytes]:
    """Ours, with a loop over latents."""
    edges = firings.starts.tolist()
    return [
        pack_firings(firings.places[first:end], firings.values[first:end])
        for first, end in zip(edges[:-1], edges[1:], strict=True)
    ]


def read_one_by_one(blobs: list[bytes]) -> PackedFirings:
    """Ours, with a loop over latents."""
    parts = [unpack_firings(blob) for blob in blobs]
    starts = np.cumsum([0, *(len(places) for places, _ in parts)])
    places, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return PackedFirings(starts, places, values)


def measure(
    name: str,
    firings: PackedFirings,
    ways: tuple[Callable[[PackedFirings], list[bytes]], Callable[[list[bytes]], PackedFirings]],
    read: Callable[[int, bytes], object],
    n_once: int = 0,
) -> dict[str, Any]:
    """Pack, read all, read some latents alone; checked against what was packed."""
    started = time.perf_counter()
    blobs = ways[0](firings)
    packed = time.perf_counter()
    found = ways[1](blobs)
    unpacked = time.perf_counter()
    n = len(firings.values)
    assert (found.places == firings.places).all(), name
    greatest = np.repeat(
        np.maximum.reduceat(firings.values, firings.starts[:-1]), np.diff(firings.starts)
    )
    error = np.abs(found.values.astype(np.float64) - firings.values)
    assert (error <= np.maximum(firings.values * 2.0**-11, greatest * 2.0**-24)).all(), name
    chosen = np.random.default_rng(0).integers(0, len(blobs), N_READ).tolist()
    seconds = []
    for latent in chosen:
        begun = time.perf_counter()
        read(latent, blobs[latent])
        seconds.append(time.perf_counter() - begun)
    return {
        "way": name,
        "bytes_per_firing": round((sum(map(len, blobs)) + n_once) / n, 3),
        "pack_mfirings_per_s": round(n / (packed - started) / 1e6, 2),
        "unpack_mfirings_per_s": round(n / (unpacked - packed) / 1e6, 2),
        "read_one_us": round(float(np.median(seconds)) * 1e6, 1),
    }


def rows(firings: PackedFirings) -> list[dict[str, Any]]:
    """One row for each way."""
    measure("warm", firings, (all_at_once, unpack_all), lambda latent, blob: unpack_firings(blob))
    found = [
        measure(name, firings, ways, lambda latent, blob: unpack_firings(blob))
        for name, ways in (
            ("ours", (all_at_once, unpack_all)),
            ("ours, one by one", (one_by_one, read_one_by_one)),
        )
    ]
    counts, dtype = np.diff(firings.starts).tolist(), arrays_of(firings)[0].gaps.dtype
    for name, (peer, n_once) in peers(firings).items():
        print(name, file=sys.stderr, flush=True)

        def read(latent: int, blob: bytes, peer: Peer = peer) -> object:
            return unpack_by(peer, counts[latent : latent + 1], dtype, [blob])

        ways = partial(pack_by, peer), partial(unpack_by, peer, counts, dtype)
        found.append(measure(name, firings, ways, read, n_once))
    return found


def real_firings(results: Path) -> PackedFirings:
    """The firings of the first cache of a results file."""
    with sqlite3.connect(f"file:{results}?mode=ro", uri=True) as connection:
        found = connection.execute("select shard, packed from firings order by rowid")
        blobs, before = [], 0
        for shard, blob in found:
            if shard < before:
                break
            before = shard
            blobs.append(blob)
    return unpack_all(blobs)


def synthetic_firings(real: PackedFirings, n_latents: int) -> PackedFirings:
    """A shard of a wide coder; latents that never fire are left out."""
    draw = np.random.default_rng(0)
    n_tokens = n_latents * PER_LATENT // K
    densities = draw.lognormal(0, np.log(np.diff(real.starts)).std(), n_latents)
    densities *= PER_LATENT / n_tokens / densities.mean()
    counts = draw.binomial(n_tokens, np.minimum(densities, 0.5))
    keys = np.repeat(np.arange(n_latents), counts) * n_tokens
    keys = np.unique(keys + draw.integers(0, n_tokens, len(keys)))
    counts = np.bincount(keys // n_tokens)
    counts = counts[counts > 0]
    source = draw.integers(0, len(real.starts) - 1, len(counts))
    size = np.repeat(np.diff(real.starts)[source], counts)
    chosen = np.repeat(real.starts[source], counts) + draw.integers(0, size)
    return PackedFirings(
        np.concatenate([[0], np.cumsum(counts)]), keys % n_tokens, real.values[chosen]
    )


def main() -> None:
    """Measure both sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="a results file with firings")
    parser.add_argument("--latents", type=int, default=131_072, help="latents of the synthetic set")
    parser.add_argument("--json", action="store_true", help="a line of JSON, no table")
    options = parser.parse_args()
    real = real_firings(options.results)
    sets = {"real": real, "synthetic": synthetic_firings(real, options.latents)}
    said = {}
    for name, firings in sets.items():
        n, n_blobs = len(firings.values), len(firings.starts) - 1
        said[name] = {"firings": n, "blobs": n_blobs, "rows": rows(firings)}
    if options.json:
        print(json.dumps(said))
        return
    for name, each in said.items():
        print(f"\n{name}: {each['firings']:,} firings in {each['blobs']:,} blobs\n")
        print("| way | bytes per firing | pack, M/s | unpack, M/s | read one latent, µs |")
        print("|---|---|---|---|---|")
        for row in each["rows"]:
            print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
