"""Subject and coder of a cache, loaded again as the cache had them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlite_utils import Database

from lite_interp.db import caches
from lite_interp.db.caches import CacheInfo
from lite_interp.errors import CoderError, SubjectError, one_line
from lite_interp.fetch import model_path
from lite_interp.loading import Reporter, coder_from_files, coder_id_of, coder_of_neurons
from lite_interp.records import Hookpoint
from lite_interp.sae import Recipe, SparseCoder, randomised
from lite_interp.subject import Subject, load_subject
from lite_interp.tokenizer import Tokenizer, load_tokenizer


class Places(NamedTuple):
    """Where the models are now."""

    subject: str = ""
    """Subject; empty = where it was when the cache was made."""
    coder: str = ""
    """Coder; empty = where it was."""


@dataclass(frozen=True, slots=True, eq=False)
class Reopened:
    """What made a cache."""

    subject: Subject
    """The language model."""
    coder: SparseCoder
    """The coder, on the subject's device."""
    tokenizer: Tokenizer
    """The subject's."""
    reads: Hookpoint
    """Where the coder reads."""


def reopen(db: Database, cache: CacheInfo, places: Places, tell: Reporter) -> Reopened:
    """Load subject and coder as a cache had them, and refuse other ones.

    Raises:
        SubjectError: no subject there, or another one.
        CoderError: no coder there, or another one.
    """
    coder_path, hookpoint, recipe = caches.coder_place(db, cache.coder_id)
    if not (places.subject or cache.subject_path):
        raise SubjectError("the file does not say where the subject is", "name it: --subject")
    path = model_path(places.subject or cache.subject_path, "subject")
    named = places.coder or coder_path
    if not named:
        raise CoderError("the file does not say where the coder is", "name it: --coder")
    coder = coder_from_files(named)
    tell.say(f"loading the subject {path.name}")
    subject = load_subject(path, dtype=caches.subject_dtype(db, cache.id))
    if subject.hash != cache.subject_id:
        raise SubjectError(
            f"another subject than the one of this cache: {one_line(subject.name)}",
            "name the right one: --subject",
        )
    coder = coder or coder_of_neurons(named, subject)
    if recipe:
        coder = randomised(coder, Recipe(**recipe))
    reads = subject.resolve(hookpoint)
    if coder_id_of(coder, reads) != cache.coder_id:
        raise CoderError(
            f"another coder than the one of this cache: {one_line(named)}",
            "name the right one: --coder",
        )
    if not coder.is_transcoder:
        coder = replace(coder, reads=hookpoint, writes=hookpoint)
    return Reopened(subject, coder.to(subject.device), load_tokenizer(path), reads)
