"""Documents to contexts: the rows of tokens that the subject sees.

    tokens of a document  ─▶  pieces of at most n_ctx tokens  ─▶  contexts, in shards

Each context begins with the BOS token if `add_bos` is set. Contexts hold one document each,
unless `packed` joins documents with a separator between them. A context with the same tokens as
an earlier one is dropped: it would be counted as new evidence, and it could stand among the
windows shown and those scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lite_interp.documents import Skips, read_documents
from lite_interp.errors import CorpusError, UsageError
from lite_interp.ids import content_id
from lite_interp.records import ContextShard, Corpus, Document

__all__ = [
    "ContextStream",
    "CorpusSettings",
    "CorpusTotals",
    "Skips",
    "build_contexts",
    "corpus_id",
    "corpus_record",
    "read_documents",
]

MIN_TOKENS = 8
"""A last piece shorter than this is dropped, unless it is the whole document."""
BATCH_DOCUMENTS = 64
BATCH_CHARACTERS = 1 << 20

EncodeMany = Callable[[Sequence[str]], Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class CorpusSettings:
    """How documents are cut."""

    n_ctx: int = 128
    """Longest context, tokens, a BOS token included."""
    add_bos: bool = True
    """Whether each context begins with the BOS token."""
    packed: bool = False
    """Whether several documents may stand in one context, with a separator between them."""
    max_tokens: int = 0
    """Limit on the tokens taken from the documents, BOS and separators not counted; 0 = none."""
    shard_contexts: int = 256
    """Contexts in a shard. Not part of the corpus's id: it changes how tokens are stored."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.n_ctx < 2:
            raise UsageError(f"a context needs at least 2 tokens: {self.n_ctx}")
        if self.max_tokens < 0:
            raise UsageError(f"the limit on tokens is negative: {self.max_tokens}")
        if self.shard_contexts < 1:
            raise UsageError(f"a shard needs at least 1 context: {self.shard_contexts}")


class CorpusTotals(NamedTuple):
    """What came out, once all shards are read."""

    source_hash: str
    """`sha256:` over the names and texts of the documents that were read, in order."""
    n_documents: int
    """Documents that gave at least one context."""
    n_without_tokens: int
    """Documents that the tokenizer made nothing of."""
    n_contexts: int
    """Contexts."""
    n_tokens: int
    """Tokens over all contexts, BOS and separators included."""
    n_duplicates: int
    """Contexts dropped because an earlier one has the same tokens."""
    n_short: int
    """Last pieces dropped because they are shorter than 8 tokens."""
    stopped: bool
    """Whether `max_tokens` ended it before the documents did."""


class _Piece(NamedTuple):
    tokens: list[int]
    first_document: int
    last_document: int


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class ContextStream:
    """Iterates over the shards of a corpus, once; then `totals` says what came out."""

    def __init__(
        self,
        documents: Iterable[Document],
        encode_many: EncodeMany,
        bos_id: int | None,
        settings: CorpusSettings,
        separator_id: int | None,
    ) -> None:
        """Read nothing yet; `build_contexts` explains the arguments."""
        self.documents, self.encode_many, self.settings = documents, encode_many, settings
        self.prefix = [bos_id] if settings.add_bos and bos_id is not None else []
        self.separator = [separator_id] if separator_id is not None else []
        self._source = hashlib.sha256()
        self._n_read = self._n_without_tokens = self._n_tokens = 0
        self._n_documents = self._counted_to = 0
        self._n_contexts = self._n_duplicates = self._n_short = 0
        self._stopped = self._finished = False

    @property
    def totals(self) -> CorpusTotals:
        """What came out; only after the last shard."""
        if not self._finished:
            raise RuntimeError("the shards have not all been read")
        return CorpusTotals(
            source_hash="sha256:" + self._source.hexdigest(),
            n_documents=self._n_documents,
            n_without_tokens=self._n_without_tokens,
            n_contexts=self._n_contexts,
            n_tokens=self._n_tokens,
            n_duplicates=self._n_duplicates,
            n_short=self._n_short,
            stopped=self._stopped,
        )

    def __iter__(self) -> Iterator[ContextShard]:
        """The shards, in order; each but the last has `shard_contexts` contexts."""
        waiting: list[list[int]] = []
        first = ordinal = 0
        for context in self._contexts():
            waiting.append(context)
            if len(waiting) == self.settings.shard_contexts:
                yield self._shard(ordinal, first, waiting)
                ordinal, first, waiting = ordinal + 1, first + len(waiting), []
        if waiting:
            yield self._shard(ordinal, first, waiting)
        if not self._n_contexts:
            raise CorpusError("the corpus gives no context: no document has any text")
        self._finished = True

    def _shard(self, ordinal: int, first: int, contexts: list[list[int]]) -> ContextShard:
        lengths = np.array([len(context) for context in contexts], np.int32)
        token_ids = np.zeros((len(contexts), self.settings.n_ctx), np.int32)
        for row, context in zip(token_ids, contexts, strict=True):
            row[: len(context)] = context
        return ContextShard(ordinal, first, lengths, token_ids)

    def _contexts(self) -> Iterator[list[int]]:
        """Pieces with the BOS before them, each sequence of tokens once."""
        seen: set[bytes] = set()
        for piece in self._packed_pieces() if self.settings.packed else self._pieces():
            context = self.prefix + piece.tokens
            key = hashlib.blake2b(np.array(context, np.int32).tobytes(), digest_size=16).digest()
            if key in seen:
                self._n_duplicates += 1
                continue
            seen.add(key)
            self._n_contexts += 1
            self._n_tokens += len(context)
            uncounted_from = max(piece.first_document, self._counted_to)
            self._n_documents += max(piece.last_document + 1 - uncounted_from, 0)
            self._counted_to = max(self._counted_to, piece.last_document + 1)
            yield context

    def _pieces(self) -> Iterator[_Piece]:
        """Pieces of one document each."""
        room = self.settings.n_ctx - len(self.prefix)
        for number, tokens in self._token_lists():
            for start in range(0, len(tokens), room):
                piece = tokens[start : start + room]
                if start and len(piece) < min(MIN_TOKENS, room):
                    self._n_short += 1
                else:
                    yield _Piece(piece, number, number)

    def _packed_pieces(self) -> Iterator[_Piece]:
        """Pieces of one long row: the documents with a separator between them."""
        room = self.settings.n_ctx - len(self.prefix)
        row: list[int] = []
        owners: list[int] = []
        n_pieces = 0
        for number, tokens in self._token_lists():
            if row or n_pieces:
                row += self.separator
                owners += [number - 1] * len(self.separator)
            row += tokens
            owners += [number] * len(tokens)
            whole = len(row) - len(row) % room
            for start in range(0, whole, room):
                n_pieces += 1
                stop = start + room
                yield _Piece(row[start:stop], owners[start], owners[stop - 1])
            row, owners = row[whole:], owners[whole:]
        if row and n_pieces and len(row) < min(MIN_TOKENS, room):
            self._n_short += 1
        elif row:
            yield _Piece(row, owners[0], owners[-1])

    def _token_lists(self) -> Iterator[tuple[int, list[int]]]:
        """Number and tokens of each document that has any, up to the limit.

        A document is hashed when its turn comes, not when it is read ahead, so that the hash
        does not depend on the size of the batches.
        """
        limit, taken = self.settings.max_tokens, 0
        for batch in _batches(self.documents):
            encoded = self.encode_many([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                for text in (document.name, document.text):
                    data = text.encode("utf-8")
                    self._source.update(len(data).to_bytes(8, "little") + data)
                tokens = list(ids)
                if limit:
                    tokens = tokens[: limit - taken]
                taken += len(tokens)
                if tokens:
                    yield self._n_read, tokens
                    self._n_read += 1
                else:
                    self._n_without_tokens += 1
                if limit and taken == limit:
                    self._stopped = True
                    return


def build_contexts(
    documents: Iterable[Document],
    encode_many: EncodeMany,
    bos_id: int | None,
    settings: CorpusSettings,
    separator_id: int | None = None,
) -> ContextStream:
    """Cut documents into contexts; memory holds a batch of documents and a shard.

    Args:
        documents: What `read_documents` gives.
        encode_many: Texts → token ids of each, no special token added, special tokens in the
            text taken as plain text.
        bos_id: The subject's BOS token, if it has one.
        settings: How to cut.
        separator_id: Token between packed documents: the end token, or else BOS.

    Raises:
        UsageError: BOS or packing is asked of a tokenizer that lacks the token for it.
    """
    if settings.add_bos and bos_id is None:
        raise UsageError("the subject's tokenizer has no BOS token", "leave BOS out")
    if settings.packed and separator_id is None:
        raise UsageError("the subject's tokenizer has no token to put between packed documents")
    return ContextStream(documents, encode_many, bos_id, settings, separator_id)


def corpus_id(source_hash: str, tokenizer_hash: str, settings: CorpusSettings) -> str:
    """Content id of a corpus."""
    return content_id(
        {
            "source_hash": source_hash,
            "tokenizer_hash": tokenizer_hash,
            "n_ctx": settings.n_ctx,
            "add_bos": settings.add_bos,
            "packed": settings.packed,
            "max_tokens": settings.max_tokens,
        }
    )


def corpus_record(
    name: str, tokenizer_hash: str, settings: CorpusSettings, totals: CorpusTotals, n_skipped: int
) -> Corpus:
    """The record of a corpus whose shards have all been read.

    Args:
        name: What the user calls it.
        tokenizer_hash: Hash of the subject's tokenizer.
        settings: How it was cut.
        totals: What came out.
        n_skipped: Documents that `read_documents` left out.
    """
    return Corpus(
        id=corpus_id(totals.source_hash, tokenizer_hash, settings),
        name=name,
        source_hash=totals.source_hash,
        tokenizer_hash=tokenizer_hash,
        n_ctx=settings.n_ctx,
        add_bos=settings.add_bos,
        packed=settings.packed,
        max_tokens=settings.max_tokens,
        n_documents=totals.n_documents,
        n_skipped=n_skipped + totals.n_without_tokens,
        n_contexts=totals.n_contexts,
        n_tokens=totals.n_tokens,
    )
