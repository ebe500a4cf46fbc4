"""Subject, coder and corpus from what the user names, checked against each other.

Nothing here writes: whatever cannot work is refused before a results file is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from lite_interp import study
from lite_interp.cache import CacheSettings
from lite_interp.corpus import ContextStream, build_contexts, corpus_record
from lite_interp.db.caches import CacheInfo
from lite_interp.documents import Skips, read_documents
from lite_interp.errors import CoderError, SubjectError, one_line
from lite_interp.fetch import model_path
from lite_interp.fit import FitSample, Sample, Site, fit_sample, read_sample
from lite_interp.ids import content_id
from lite_interp.records import Corpus, Hookpoint
from lite_interp.sae import (
    RANDOM,
    SparseCoder,
    check_fits,
    load_coder,
    make_recipe,
    randomised,
    refuse_bad_fit,
)
from lite_interp.sae.neurons import make_neurons, read_name
from lite_interp.shelf import Shelf
from lite_interp.subject import Subject, load_subject
from lite_interp.tokenizer import Tokenizer, load_tokenizer

Item = TypeVar("Item")


class Reporter(Protocol):
    """Who is told what happens."""

    def say(self, text: str) -> None:
        """One line."""

    def track(self, items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
        """The items, while a bar shows how many of the total went by."""
        ...


class CacheJob(NamedTuple):
    """What a cache is made from, as the user names it."""

    subject: study.SubjectSection
    coder: study.CoderSection
    corpus: study.CorpusSection
    settings: study.CacheSection = study.CacheSection()
    others: tuple[study.CoderSection, ...] = ()
    """More coders that are cached in the same pass through the subject, each by itself."""


class Loaded(NamedTuple):
    """Subject and coder in memory, checked against each other on the corpus."""

    subject: Subject
    tokenizer: Tokenizer
    coder: SparseCoder
    site: Site
    sample: FitSample
    settings: CacheSettings


def load_job(job: CacheJob, tell: Reporter) -> Loaded:
    """Load subject and coder and refuse what cannot work; writes nothing.

    Raises:
        LiteInterpError: whatever is wrong with subject, hookpoint, coder or corpus.
    """
    return load_jobs(job._replace(others=()), tell)[0]


def load_jobs(job: CacheJob, tell: Reporter) -> list[Loaded]:
    """The same for all coders of a job; the subject is in memory once.

    Raises:
        LiteInterpError: as `load_job`.
    """
    path = model_path(job.subject.model, "subject")
    sections = [job.coder, *job.others]
    coders = [coder_from_files(section.path) for section in sections]
    tokenizer = load_tokenizer(path)
    next(iter(open_stream(job, tokenizer, Skips())))
    tell.say(f"loading the subject {path.name}")
    subject = load_subject(path, device=job.subject.device, dtype=job.subject.dtype)
    if job.corpus.n_ctx > subject.max_length:
        raise SubjectError(
            f"contexts are longer than the subject reads: {job.corpus.n_ctx} tokens",
            f"it reads {subject.max_length}: --context, `n_ctx` in [corpus]",
        )
    return [
        _checked(
            job._replace(coder=section),
            coder or coder_of_neurons(section.path, subject),
            subject,
            tokenizer,
            tell,
        )
        for section, coder in zip(sections, coders, strict=True)
    ]


def _checked(
    job: CacheJob, coder: SparseCoder, subject: Subject, tokenizer: Tokenizer, tell: Reporter
) -> Loaded:
    """A coder on the subject's device, checked on the beginning of the corpus."""
    site = _site(subject, coder, job.coder.hookpoint, tokenizer.special_ids)
    coder = coder.to(subject.device)
    read = read_sample(iter(open_stream(job, tokenizer, Skips())), subject, site)
    sample = _fit(read, coder, site, tell)
    _refuse(sample, coder, job, tell)
    if job.coder.random:
        # The real coder was checked first: it says where to read and how many latents fire.
        recipe = make_recipe(coder, read.x, sample.fit.l0, read.id)
        coder = randomised(coder, recipe).to(subject.device)
        sample = _fit(read, coder, site, tell)
        tell.say("its directions are random: it is not meant to reconstruct, an FVU near 1 is fine")
    return Loaded(subject, tokenizer, coder, site, sample, study.cache_settings(job.settings))


def coder_from_files(path: str) -> SparseCoder | None:
    """The coder at a path; None if the path means neurons, for which the subject is needed first.

    Raises:
        CoderError: there is none that is read, or no such neurons.
    """
    return None if read_name(path) else load_coder(Path(path))


def coder_of_neurons(path: str, subject: Subject) -> SparseCoder:
    """The coder whose latents are neurons of the subject, of a path such as `neurons:9`.

    Raises:
        SubjectError: the subject has no such layer, or is of a kind whose neurons are not known.
        CoderError: k is larger than the layer.
    """
    wanted = read_name(path)
    assert wanted is not None
    module = subject.resolve(wanted.reads).module
    return make_neurons(wanted, subject.model.get_submodule(module), subject.hash)


def _fit(read: Sample, coder: SparseCoder, site: Site, tell: Reporter) -> FitSample:
    """Measure a coder on a sample, and say what it is."""
    sample = fit_sample(read, coder)
    fit = sample.fit
    tell.say(
        f"coder {coder_name(coder)}: {coder.n_latents:,} latents at {site.reads}; "
        f"FVU {fit.fvu:.3f}, L0 {fit.l0:.1f} on {fit.n_tokens:,} tokens"
    )
    return sample


def _refuse(sample: FitSample, coder: SparseCoder, job: CacheJob, tell: Reporter) -> None:
    """Refuse a coder that does not reconstruct, unless it cannot or the user goes on all the same.

    A coder that is one part of what writes there says so in its provenance.
    """
    partial = coder.provenance.get("partial")
    try:
        for warning in refuse_bad_fit(sample.fit, coder):
            tell.say(f"warning: {warning}")
    except CoderError as error:
        if not job.coder.force and not partial:
            raise CoderError(str(error), f"{error.hint}; --force goes on all the same") from None
        tell.say(f"warning: {error}{f'; but this is {partial}' if partial else ''}")


def _site(subject: Subject, coder: SparseCoder, named: str, special_ids: frozenset[int]) -> Site:
    """Where the coder belongs: as its files say, or where the user names what it reads."""
    reads = subject.resolve(named or coder.reads)
    writes = subject.resolve(coder.writes) if coder.is_transcoder else reads
    check_fits(coder, f"{subject.name} {reads}", subject.width(reads), subject.width(writes))
    return Site(reads, writes, special_ids)


def cache_tokenizer(cache: CacheInfo, moved: str) -> Tokenizer:
    """The tokenizer that cut the corpus of a cache.

    Args:
        cache: the cache.
        moved: where the subject is now; empty = where it was when the cache was made.

    Raises:
        SubjectError: another tokenizer is there.
    """
    tokenizer = load_tokenizer(model_path(moved, "subject") if moved else cache.subject_path)
    if tokenizer.hash != cache.corpus.tokenizer_hash:
        raise SubjectError(
            f"another tokenizer than the one that cut the corpus: {one_line(tokenizer.name)}",
            "name the subject of this file: --subject",
        )
    return tokenizer


def coder_name(coder: SparseCoder) -> str:
    """What people call a coder: the last two parts of its folder, and whether it is random."""
    name = "/".join(Path(str(coder.provenance["path"])).parts[-2:])
    return f"{name} (random)" if coder.format == RANDOM else name


def open_stream(job: CacheJob, tokenizer: Tokenizer, skips: Skips) -> ContextStream:
    """The corpus of a job as shards of contexts."""
    add_bos = tokenizer.adds_bos if job.corpus.add_bos is None else job.corpus.add_bos
    documents = read_documents(
        [Path(path) for path in job.corpus.paths], job.corpus.text_field, skips
    )
    return build_contexts(
        documents,
        tokenizer.encode_many,
        tokenizer.bos_id,
        study.corpus_settings(job.corpus, add_bos=add_bos),
        tokenizer.bos_id,
    )


def read_corpus(job: CacheJob, tokenizer: Tokenizer, tell: Reporter, shelf: Shelf) -> Corpus:
    """Read the whole corpus, to know its name and size before anything is written.

    Args:
        job: names it.
        tokenizer: the subject's.
        tell: who is told.
        shelf: takes its shards of contexts.
    """
    skips = Skips()
    stream = open_stream(job, tokenizer, skips)
    for shard in stream:
        shelf.put(shard)
    name = job.corpus.name or Path(job.corpus.paths[0]).name
    corpus = corpus_record(
        one_line(name), tokenizer.hash, stream.settings, stream.totals, skips.total
    )
    tell.say(
        f"corpus {corpus.name}: {corpus.n_tokens:,} tokens in {corpus.n_contexts:,} contexts "
        f"of {corpus.n_documents:,} documents"
    )
    if skips.total:
        tell.say(f"left out: {skips}")
    return corpus


def coder_id(loaded: Loaded) -> str:
    """Name of a coder: its weights, its config (how many latents are kept, say), where it reads."""
    return coder_id_of(loaded.coder, loaded.site.reads)


def coder_id_of(coder: SparseCoder, reads: Hookpoint) -> str:
    """The same of a coder and the hookpoint it reads."""
    return content_id(["coder", coder.hash, coder.provenance["config"], str(reads)])
