"""What a sparse coder is, whether it fits a subject, and where and how it would fit better.

    own site            FVU, L0 and densities on about 2,000 tokens, beside what the config declares
    neighbouring sites  the same coder on about 500 tokens: a site of which the FVU is much lower is
                        the likely right one
    scales              the same at its own site: what a file may have meant and not folded

Only when none of them reconstructs is every layer tried. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lite_interp.coder_check.declared import compare, factors_of
from lite_interp.coder_check.report import CoderReport, Densities, fvu_of, is_better, warnings
from lite_interp.coder_check.sites import Pair, everywhere, layer_of, near, width
from lite_interp.coder_check.trying import Tried, few_contexts, tried, try_sites, ways
from lite_interp.data import data_folder
from lite_interp.documents import Skips
from lite_interp.errors import SubjectError, one_line
from lite_interp.fetch import model_path
from lite_interp.fit import FIT_TOKENS, Sample, Site, fit_sample, read_sample
from lite_interp.loading import (
    CacheJob,
    Reporter,
    coder_from_files,
    coder_of_neurons,
    open_stream,
)
from lite_interp.records import ContextShard
from lite_interp.sae import SparseCoder
from lite_interp.sae.check import WORST_FVU
from lite_interp.subject import Subject, load_subject
from lite_interp.tokenizer import load_tokenizer

__all__ = ["CoderReport", "Densities", "Tried", "check_coder", "demo_corpus", "warnings"]

OFTEN = 0.1
"""Density above which a latent fires so often that it says little."""
QUANTILES = (0.1, 0.5, 0.9, 0.99)
"""Quantiles of the densities that are reported."""


def demo_corpus() -> Path:
    """The corpus that is read where none is named."""
    return data_folder("models") / "demo" / "corpus.jsonl.zst"


def check_coder(job: CacheJob, tell: Reporter) -> CoderReport:
    """Look at a coder and measure it.

    Args:
        job: subject, coder and corpus, as a cache would be made from them.
        tell: who is told what takes long.

    Raises:
        LiteInterpError: subject, coder or corpus cannot be read at all.
    """
    path = model_path(job.subject.model, "subject")
    read = coder_from_files(job.coder.path)
    tokenizer = load_tokenizer(path)
    stream = open_stream(job, tokenizer, Skips())
    shards = list(_enough(iter(stream)))
    tell.say(f"loading the subject {path.name}")
    subject = load_subject(path, device=job.subject.device, dtype=job.subject.dtype)
    if job.corpus.n_ctx > subject.max_length:
        raise SubjectError(
            f"contexts are longer than the subject reads: {job.corpus.n_ctx} tokens",
            f"it reads {subject.max_length}: --context",
        )
    coder = (read or coder_of_neurons(job.coder.path, subject)).to(subject.device)
    look = _Look(coder, subject, tokenizer.special_ids, shards)
    own, problem = own_site(coder, subject, job.coder.hookpoint)
    sample = look.sample(own, shards) if own else None
    fit = fit_sample(sample, coder).fit if sample else None
    found: list[Tried] = []
    if not coder.provenance.get("partial"):
        tell.say("trying other sites and scales on a few tokens")
        found = look.search(own, _layer(job.coder.hookpoint, coder, own))
    # On a few tokens a coder may look better by chance, so the best is measured again.
    best = look.again(found[0]) if found else None
    names = (str(own[0]), str(own[1])) if own else ("", "")
    return CoderReport(
        coder=coder,
        subject=subject,
        corpus=one_line(job.corpus.name or Path(job.corpus.paths[0]).name),
        reads=names[0],
        writes=names[1],
        problem=problem,
        fit=fit,
        densities=densities(coder, sample) if sample else None,
        declared=compare(coder, subject, names[0], stream.settings.add_bos, fit),
        tried=found,
        best=best if best and is_better(best.fit, fit) else None,
    )


def own_site(coder: SparseCoder, subject: Subject, named: str) -> tuple[Pair | None, str]:
    """Where a coder says it belongs, or where the user names what it reads; else why it cannot."""
    if not (named or coder.reads):
        return None, "its files do not say where it reads"
    try:
        reads = subject.resolve(named or coder.reads)
        writes = subject.resolve(coder.writes) if coder.is_transcoder else reads
    except SubjectError as error:
        return None, f"{error}; {error.hint}" if error.hint else str(error)
    for verb, point, own in (("reads", reads, coder.d_in), ("writes", writes, coder.d_out)):
        there = width(point, subject)
        if there != own:
            has = f"has width {there}" if there else "gives no activation for each token"
            return None, f"it {verb} width {own}, and {point} {has}"
    return (reads, writes), ""


def densities(coder: SparseCoder, sample: Sample) -> Densities:
    """How often each latent fires on a sample."""
    counts = coder.firings(sample.x).latents.bincount(minlength=coder.n_latents)
    density = counts.cpu().numpy() / max(1, len(sample.x))
    alive = density[density > 0]
    quantiles = np.quantile(alive, QUANTILES).tolist() if len(alive) else []
    return Densities(
        float((density == 0).mean()),
        float((density > OFTEN).mean()),
        dict(zip(QUANTILES, quantiles, strict=False)),
    )


def _layer(named: str, coder: SparseCoder, own: Pair | None) -> int | None:
    """The layer around which to look."""
    return layer_of(str(own[0])) if own else layer_of(named or coder.reads)


def _enough(shards: Iterator[ContextShard]) -> Iterator[ContextShard]:
    """As many shards as a fit is measured on."""
    n_tokens = 0
    for shard in shards:
        yield shard
        n_tokens += int(shard.lengths.sum())
        if n_tokens >= FIT_TOKENS:
            return


class _Look(NamedTuple):
    """A coder, a subject and some contexts."""

    coder: SparseCoder
    subject: Subject
    special_ids: frozenset[int]
    shards: list[ContextShard]

    def sample(self, pair: Pair, shards: list[ContextShard]) -> Sample:
        """What the coder would read and write at a site."""
        return read_sample(iter(shards), self.subject, Site(*pair, self.special_ids))

    def search(self, own: Pair | None, layer: int | None) -> list[Tried]:
        """Its own site, the neighbours and scales; every layer if none fits. Best first."""
        few = few_contexts(self.shards[0])
        declared, _ = own_site(self.coder, self.subject, "")
        # Where the user names another hookpoint, what the files say is looked at too.
        sites = list(dict.fromkeys(pair for pair in (own, declared) if pair))
        beside = near(own, layer, self.coder, self.subject)
        sites += [pair for pair in beside if pair not in sites]
        found = self._try(sites, few)
        if own:
            found += self._scales(own, few)
        if not _any_fits(found):
            more = everywhere(own, self.coder, self.subject)
            found += self._try([pair for pair in more if pair not in sites], few)
            best = min(found, key=_fvu, default=None)
            if best and not _any_fits(found) and own != (best.reads, best.writes):
                found += self._scales((best.reads, best.writes), few)
        return sorted(found, key=_fvu)

    def again(self, best: Tried) -> Tried:
        """The same on as many tokens as its own site is measured on."""
        pair = best.reads, best.writes
        return tried(best.way, self.sample(pair, self.shards), pair)

    def _try(self, pairs: list[Pair], shard: ContextShard) -> list[Tried]:
        return try_sites(pairs, self.coder, self.subject, self.special_ids, shard)

    def _scales(self, own: Pair, shard: ContextShard) -> list[Tried]:
        sample = self.sample(own, [shard])
        changes = ways(self.coder, sample, factors_of(self.coder))
        return [tried(way, sample, own) for way in changes]


def _fvu(each: Tried) -> float:
    return fvu_of(each.fit)


def _any_fits(found: list[Tried]) -> bool:
    return any(each.fit.fvu <= WORST_FVU for each in found)
