"""Which explanations from elsewhere are about the coder of a cache.

Other tools have names of their own for a coder: a hookpoint, a folder, Neuronpedia's source id.
What can be told from the name is told; the rest only the user knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lite_interp.db.caches import CacheInfo
from lite_interp.errors import UsageError, nearest, one_line
from lite_interp.outside.fields import Flaw, Record


class SortedOut(NamedTuple):
    """Records about latents of a cache, and the rest."""

    records: list[Record]
    """Those that are."""
    flaws: list[Flaw]
    """Those that cannot be, and why."""
    notes: list[str]
    """What the user should know of it, a line each."""


def of_this_coder(records: Sequence[Record], cache: CacheInfo, named: str = "") -> SortedOut:
    """The records about latents of the cache, and those that cannot be.

    A line that names no coder is taken as it is. One that does must name that of the cache, or
    what the user says is its name: then lines of other coders are left out. Neuronpedia's source
    ids are known to nobody here; without a word from the user there may be one, of the layer of
    the cache.

    Args:
        records: what the files hold.
        cache: the cache.
        named: what the files call its coder; empty = the user does not say.

    Raises:
        UsageError: no line, or lines of several subjects, have the name that the user gives; or
            the files hold several of Neuronpedia's sources.
    """
    found = _named(records, named) if named else _known(records, cache)
    good = [record for record in found.records if record.latent < cache.n_latents]
    absent = [
        Flaw(record.place, f"no such latent: {record.latent}, there are 0 to {cache.n_latents - 1}")
        for record in found.records
        if record.latent >= cache.n_latents
    ]
    return SortedOut(good, found.flaws + absent, found.notes)


def _named(records: Sequence[Record], named: str) -> SortedOut:
    """The records of the coder that the user names, and those that name none."""
    names = {record.coder_name for record in records if named in (record.coder, record.coder_name)}
    if len(names) != 1:
        known = {record.coder_name for record in records if record.coder}
        raise UsageError(
            f"{'several subjects have' if names else 'no line names'} the coder: {one_line(named)}",
            nearest(named, names or known),
        )
    kept = [record for record in records if record.coder_name in names or not record.coder]
    n_others = len(records) - len(kept)
    notes = [f"left out: {n_others:,} explanations of other coders"] if n_others else []
    return SortedOut(kept, [], notes)


def _known(records: Sequence[Record], cache: CacheInfo) -> SortedOut:
    """The records whose coder is that of the cache, as far as its name tells."""
    named = {(record.model, record.coder) for record in records if record.coder}
    outside = sorted(f"{model}/{coder}" for model, coder in named if model)
    if len(outside) > 1:
        raise UsageError(
            f"the files hold {len(outside)} sources of Neuronpedia",
            f"--layer says which is the coder of this cache; {nearest('', outside)}",
        )
    ours = {
        (model, coder)
        for model, coder in named
        if (is_of_layer(coder, cache) if model else names_coder(coder, cache))
    }
    notes = [
        f"taken for the coder of this cache: {model}/{coder}" for model, coder in ours if model
    ]
    kept, flaws = [], []
    for record in records:
        if not record.coder or (record.model, record.coder) in ours:
            kept.append(record)
        else:
            flaws.append(Flaw(record.place, f"another coder: {record.coder_name}"))
    return SortedOut(kept, flaws, notes)


def names_coder(name: str, cache: CacheInfo) -> bool:
    """Whether a name means the coder of a cache: its id, its name, or where it reads.

    Where it reads is a module path with a layer's number in it, whole or without its beginning
    (`layers.9` for `model.layers.9`), and perhaps with `.input` or `.output`.
    """
    if name in (cache.coder_id, cache.coder_id.removeprefix("b2:"), cache.coder_name):
        return True
    path, _, side = cache.hookpoint.rpartition(".")
    stem, _, end = name.rpartition(".")
    if end in ("input", "output"):
        if end != side:
            return False
        name = stem
    return bool(re.search(r"\.\d+(\.|$)", name)) and f".{path}".endswith(f".{name}")


def is_of_layer(source_id: str, cache: CacheInfo) -> bool:
    """Whether a source id of Neuronpedia, `9-res-16k`, begins with the layer of the cache."""
    theirs = re.match(r"([0-9]{1,6})-", source_id)
    ours = re.search(r"\.([0-9]+)\.", cache.hookpoint)
    return theirs is not None and ours is not None and int(theirs[1]) == int(ours[1])
