"""Texts to unit vectors with a GGUF embedding model, through llama.cpp.

    texts ─tokens─▶ packs of whole sequences ─one call each─▶ pooled by llama.cpp ─▶ unit vectors

A pack holds whole texts, because an encoder sees a text in one pass or not at all. What llama.cpp
answers with an abort (a call that is too long, a special token that the vocabulary lacks) is
checked here before it is called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lite_interp.engine.gguf_file import GgufHeader, check_model, read_header
from lite_interp.engine.library import array_at, load_model, reason
from lite_interp.engine.opening import physical_cores
from lite_interp.errors import EmbedderError, EngineError, one_line
from lite_interp.ids import content_id, hash_file

N_CTX = 512
"""Tokens of a text that are read, at most; a longer text is cut."""
N_PACKED = 256
"""Tokens of several texts in one call, at most. Each token is compared with all of the call, so on
a CPU a larger call is slower."""
N_SEQUENCES = 64
"""Texts in one call, at most."""
TOLERANCE = 0.02
"""Greatest difference that a neighbour may make to a number of a unit vector."""

_POOLING = {
    llama_cpp.LLAMA_POOLING_TYPE_MEAN: "mean",
    llama_cpp.LLAMA_POOLING_TYPE_CLS: "first token",
    llama_cpp.LLAMA_POOLING_TYPE_LAST: "last token",
}
_NOT_SAID = (None, llama_cpp.LLAMA_POOLING_TYPE_NONE, 0xFFFFFFFF)
_ENCODERS = ("bert", "gemma-embedding")
_NO_VECTORS = ("t5", "clip", "mmproj", "wavtokenizer")


class Pooling(NamedTuple):
    """How the vectors of a text's tokens become one."""

    kind: int
    """llama.cpp's number of it."""
    from_file: bool
    """Whether the file says so; otherwise it was taken for granted."""


class LlamaEmbedder:
    """A GGUF embedding model."""

    def __init__(self, path: Path, n_ctx: int = N_CTX, n_threads: int = 0) -> None:
        """Load the model.

        Args:
            path: a GGUF file.
            n_ctx: tokens of a text that are read; lowered to what the model was trained on.
            n_threads: 0 = one for each physical core.

        Raises:
            EmbedderError: no such file, or no embedding model in it.
        """
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        try:
            header = read_header(path)
            check_model(path, header)
        except EngineError as error:
            raise EmbedderError(str(error), error.hint) from error
        pooling = choose_pooling(path, header)
        check_width(path, header)
        sha256 = hash_file(path)
        try:
            self._load(path)
            self._check_vocabulary(path)
            self._closing = self._special_end()
            self.n_ctx = min(n_ctx, llama_cpp.llama_model_n_ctx_train(self._model))
            if self.n_ctx < len(self._closing) + 2:
                raise EmbedderError(
                    f"embedding model reads too few tokens: {one_line(path)}: {self.n_ctx}"
                )
            self._start(path, pooling.kind, n_threads or physical_cores())
            self._self_test()
        except BaseException:
            self.close()
            raise
        settings = {"n_ctx": self.n_ctx, "pooling": _POOLING[pooling.kind]}
        self.id: str = content_id(["embedder", {path.name: sha256}, settings])
        self.name: str = one_line(header.metadata.get("general.name") or path.stem)
        self.provenance: Mapping[str, Any] = {
            "path": str(path),
            "sha256": sha256,
            "architecture": header.architecture,
            "quantisation": self._described(),
            "n_dimensions": self.n_dimensions,
            **settings,
            "pooling_from": "file" if pooling.from_file else "assumed",
            "llama_cpp_python": llama_cpp.__version__,
        }

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d); the end of a text that is too long is not read.

        Raises:
            EmbedderError: llama.cpp fails, or gives what is no direction.
            ValueError: the embedder is closed.
        """
        if not self._context:
            raise ValueError("the embedder is closed")
        sequences = [self._tokens(text) for text in texts]
        vectors = np.empty((len(sequences), self.n_dimensions), np.float32)
        lengths = [len(tokens) for tokens in sequences]
        for pack in packs(lengths, min(N_PACKED, self._n_batch), self._n_sequences):
            self._evaluate(sequences[pack], vectors[pack])
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        wrong = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
        if wrong.any():
            raise EmbedderError(
                f"embedding model gives no direction for a text: {one_line(lengths[wrong][0, 0])} "
                "is the length of its vector",
                "the file is damaged, or this build of llama.cpp cannot run it",
            )
        return (vectors / lengths).astype(np.float32)

    def close(self) -> None:
        """Free the model. A closed embedder cannot be used again; closing twice is harmless."""
        if self._batch:
            llama_cpp.llama_batch_free(self._batch)
        if self._context:
            llama_cpp.llama_free(self._context)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._batch = self._context = self._model = self._vocab = None

    def __enter__(self) -> LlamaEmbedder:
        """The embedder itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _load(self, path: Path) -> None:
        try:
            self._model = load_model(path)
        except EngineError as error:
            raise EmbedderError(
                f"embedding model cannot be loaded: {one_line(path)}: {reason()}", error.hint
            ) from error
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.n_dimensions: int = llama_cpp.llama_model_n_embd_out(self._model)
        kind = llama_cpp.llama_vocab_type(self._vocab)
        # To word pieces llama.cpp always adds a begin and an end, whatever the file says.
        self._is_wpm = kind == llama_cpp.LLAMA_VOCAB_TYPE_WPM

    def _check_vocabulary(self, path: Path) -> None:
        """Refuse a vocabulary on which llama.cpp would end the process."""
        vocab = self._vocab
        always = self._is_wpm
        added = (
            (always or llama_cpp.llama_vocab_get_add_bos(vocab), llama_cpp.llama_vocab_bos),
            (always or llama_cpp.llama_vocab_get_add_sep(vocab), llama_cpp.llama_vocab_sep),
            (llama_cpp.llama_vocab_get_add_eos(vocab), llama_cpp.llama_vocab_eos),
        )
        none = llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_NONE
        if none or any(adds and cast(int, token(vocab)) < 0 for adds, token in added):
            raise EmbedderError(
                f"embedding model has no whole vocabulary: {one_line(path)}",
                "convert the model again, with its tokenizer",
            )

    def _start(self, path: Path, pooling: int, n_threads: int) -> None:
        options = llama_cpp.llama_context_default_params()
        # An encoder needs a call's tokens in one pass; then none of these may be the smaller.
        options.n_ctx = options.n_batch = options.n_ubatch = self.n_ctx
        options.n_seq_max = self._n_sequences = min(N_SEQUENCES, self.n_ctx)
        options.n_threads = options.n_threads_batch = n_threads
        options.pooling_type = pooling
        options.embeddings = True
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.kv_unified = True  # a decoder's cells belong to whichever text needs them
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise EmbedderError(f"embedding model cannot be started: {one_line(path)}: {reason()}")
        self._n_batch = min(
            self.n_ctx,
            llama_cpp.llama_n_batch(self._context),
            llama_cpp.llama_n_ubatch(self._context),
        )
        self._memory = cast(Any, llama_cpp.llama_get_memory(self._context))
        self._batch = llama_cpp.llama_batch_init(self._n_batch, 0, 1)

    def _evaluate(self, sequences: Sequence[Sequence[int]], vectors: NDArray[np.float32]) -> None:
        """Pooled vectors of one pack, written into `vectors` (n, d)."""
        batch, n = self._batch, 0
        if len(sequences) > self._n_sequences or sum(map(len, sequences)) > self._n_batch:
            raise ValueError(f"a call of {len(sequences)} texts is too large")
        for sequence, tokens in enumerate(sequences):
            for position, token in enumerate(tokens):
                batch.token[n], batch.pos[n] = token, position
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
                batch.logits[n] = True
                n += 1
        batch.n_tokens = n
        if self._memory:  # a decoder's; an encoder keeps nothing
            llama_cpp.llama_memory_clear(self._memory, False)
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            raise EmbedderError(
                f"llama.cpp could not embed {n} tokens: code {code}: {reason()}",
                "try another file of this model",
            )
        for sequence in range(len(sequences)):
            pooled = llama_cpp.llama_get_embeddings_seq(self._context, sequence)
            if not pooled:
                raise EmbedderError(
                    "llama.cpp gives no vector for a text", "this may be no embedding model"
                )
            vectors[sequence] = array_at(pooled, (self.n_dimensions,))

    def _tokens(self, text: str) -> list[int]:
        """Tokens of a text with the special ones around them; never none, never too many."""
        tokens = self._raw(text) or self._raw(" ") or [0]
        if len(tokens) > self.n_ctx:
            tokens = tokens[: self.n_ctx - len(self._closing)] + self._closing
        return tokens

    def _special_end(self) -> list[int]:
        """The special tokens behind each text: those around an empty one without the first."""
        tokens = self._raw("")
        begins = self._is_wpm or llama_cpp.llama_vocab_get_add_bos(self._vocab)
        return tokens[1:] if begins else tokens

    def _raw(self, text: str) -> list[int]:
        """Tokens of a text; what reads like a special token in it is ordinary text."""
        data = text.encode("utf-8", "replace")
        n = len(data) + 8  # a vocabulary that spells out letters may need more
        while True:
            buffer = (llama_cpp.llama_token * n)()
            size = n
            n = llama_cpp.llama_tokenize(
                self._vocab, data, len(data), cast(Any, buffer), size, True, False
            )
            if n >= 0:
                return buffer[:n]
            n = -n

    def _described(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, cast(Any, buffer), 256)
        return buffer.value.decode("utf-8", "replace")

    def _self_test(self) -> None:
        """Hold that neighbours in one call do not touch each other, as an engine does."""
        texts = ["x", "1 2 3"]
        together = self.embed(texts)
        alone = np.concatenate([self.embed([text]) for text in texts])
        difference = float(np.abs(together - alone).max())
        if not difference <= TOLERANCE:
            raise EmbedderError(
                f"llama.cpp gives other vectors for the same texts: they differ by {difference:g}",
                "install another version of llama-cpp-python, or another build of it",
            )


def choose_pooling(path: Path, header: GgufHeader) -> Pooling:
    """How this file's vectors are pooled: as it says; an encoder that says nothing, by the mean.

    Raises:
        EmbedderError: it holds no embedding model.
    """
    shown, architecture = one_line(path), header.architecture
    if any(name in architecture.lower() for name in _NO_VECTORS):
        raise EmbedderError(
            f"model cannot embed texts: {shown}: its architecture is {one_line(architecture)}",
            "an embedding model is one such as bert, nomic-bert or gemma-embedding",
        )
    said = header.metadata.get(f"{architecture}.pooling_type")
    if said in _POOLING:
        return Pooling(said, True)
    if said == llama_cpp.LLAMA_POOLING_TYPE_RANK:
        raise EmbedderError(
            f"model ranks pairs of texts and embeds none: {shown}",
            "give the embedding model that belongs to it",
        )
    if said not in _NOT_SAID:
        raise EmbedderError(
            f"embedding model pools in an unknown way: {shown}: {one_line(said)}",
            "convert the model again",
        )
    causal = header.metadata.get(f"{architecture}.attention.causal", True)
    if causal and not any(name in architecture.lower() for name in _ENCODERS):
        raise EmbedderError(
            f"not an embedding model: {shown}: its architecture is {one_line(architecture)}, "
            "and it names no pooling",
            "a language model explains and judges: --engine; an embedder is one such as bert",
        )
    return Pooling(llama_cpp.LLAMA_POOLING_TYPE_MEAN, False)


def check_width(path: Path, header: GgufHeader) -> None:
    """Refuse a file whose vectors llama.cpp would read beyond their end; raises `EmbedderError`."""
    key = f"{header.architecture}."
    width = header.metadata.get(key + "embedding_length")
    for name in ("embedding_length_out", "dense_3_feat_out"):
        given = header.metadata.get(key + name, width)
        if given != width:
            raise EmbedderError(
                f"embedding model gives vectors of another width than its own: {one_line(path)}: "
                f"{name} is {one_line(given)}",
                "try another file of this model",
            )


def packs(lengths: Sequence[int], n_tokens: int, n_texts: int) -> Iterator[slice]:
    """Cut texts of these lengths, tokens, into runs for one call each; a long text stands alone."""
    start = total = 0
    for index, length in enumerate(lengths):
        if index > start and (total + length > n_tokens or index - start == n_texts):
            yield slice(start, index)
            start, total = index, 0
        total += length
    if lengths:
        yield slice(start, len(lengths))
