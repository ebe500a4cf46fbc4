"""The subject's tokenizer: text to token ids and back, without loading the model's weights.

Text is data: a special token's name that stands in a text is cut up like any other text.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite_interp.errors import SubjectError, one_line
from lite_interp.local_model import locate, quiet


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """Cuts text into tokens, and says what text a token stands for."""

    name: str
    """File or folder it came from."""
    hash: str
    """`sha256:` over its serialisation in the form of tokenizer.json."""
    n_vocab: int
    """Number of token ids, added tokens included."""
    bos_id: int | None
    """The token that begins a text; None if there is none."""
    adds_bos: bool
    """Whether the tokenizer puts the BOS token before a text by default."""
    special_ids: frozenset[int]
    """Control tokens: begin, end, padding, chat marks."""
    backend: Any
    """The `tokenizers.Tokenizer` that does the work."""
    token_bytes: tuple[bytes, ...]
    """(n_vocab,) the bytes each token adds to a text, by token id."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; no special tokens are added or recognised."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, on all cores."""
        batch = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def texts(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """Texts of single tokens; joined they give `decode(token_ids)`.

        A character whose bytes are spread over several tokens belongs to the one that completes
        it, the others are empty. Bytes that are no UTF-8 become U+FFFD.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(self._bytes(token)) for token in token_ids]
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return tuple(texts)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of a row of tokens, special tokens by their names, spaces as they are."""
        return b"".join(map(self._bytes, token_ids)).decode("utf-8", "replace")

    def _bytes(self, token: int) -> bytes:
        """Bytes of one token; an id behind the vocabulary, as padded models have, is empty."""
        return self.token_bytes[token] if 0 <= token < self.n_vocab else b""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from a folder in Hub layout or from a GGUF file.

    Raises:
        SubjectError: there is no tokenizer, or none that can be read.
    """
    from transformers import AutoTokenizer

    place = locate(path, needed=("tokenizer.json", "tokenizer_config.json"))
    try:
        with quiet():
            loaded = AutoTokenizer.from_pretrained(str(place.folder), **place.options)
    # The `tokenizers` library raises Exception itself for a file it cannot use.
    except Exception as error:
        raise SubjectError(
            f"tokenizer cannot be read: {one_line(path)}: {one_line(error)[:200]}",
            "fetch the model's tokenizer files again",
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise SubjectError(
            f"tokenizer has no tokenizer.json: {one_line(path)}",
            "save it as tokenizer.json with the `tokenizers` library",
        )
    return _tokenizer(place.path.name, loaded)


def _tokenizer(name: str, loaded: Any) -> Tokenizer:
    """Our form of a fast transformers tokenizer."""
    import tokenizers

    state = json.loads(loaded.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    serialised = json.dumps(state, ensure_ascii=False)
    backend = tokenizers.Tokenizer.from_str(serialised)
    # Special tokens named in a text would otherwise become the tokens themselves.
    backend.encode_special_tokens = True
    added = {token["id"]: token for token in state["added_tokens"]}
    special = {number for number, token in added.items() if token["special"]}
    bos = loaded.bos_token_id
    table = _token_bytes(backend, {number: token["content"] for number, token in added.items()})
    with quiet():
        first = loaded("a").input_ids[:1]
    return Tokenizer(
        name=name,
        hash="sha256:" + hashlib.sha256(serialised.encode("utf-8")).hexdigest(),
        n_vocab=len(table),
        bos_id=bos,
        adds_bos=bos is not None and first == [bos],
        special_ids=frozenset(special | set(loaded.all_special_ids)),
        backend=backend,
        token_bytes=table,
    )


def _token_bytes(backend: Any, added: dict[int, str]) -> tuple[bytes, ...]:
    """The bytes of every token, found from the kind of decoder."""
    vocabulary = {number: token for token, number in backend.get_vocab().items()}
    kinds = _decoder_kinds(backend)
    read = _read_byte_level if "ByteLevel" in kinds else _read_byte_fallback
    if not kinds & {"ByteLevel", "ByteFallback", "Metaspace", "Replace"}:

        def read(token: str) -> bytes:
            number = backend.token_to_id(token)
            return backend.decode([number], skip_special_tokens=False).encode("utf-8")

    table = [b""] * (max(vocabulary, default=-1) + 1)
    for number, token in vocabulary.items():
        table[number] = added[number].encode("utf-8") if number in added else read(token)
    return tuple(table)


def _decoder_kinds(backend: Any) -> set[str]:
    """Names of the decoders, those in a sequence included."""
    decoder = json.loads(backend.to_str())["decoder"] or {}
    return {decoder.get("type", "")} | {part["type"] for part in decoder.get("decoders", [])}


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies, as in GPT-2."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()
"""Character to byte, 256 entries."""


def _read_byte_level(token: str) -> bytes:
    """Bytes of a byte-level token: each character is one byte."""
    if all(character in BYTE_ALPHABET for character in token):
        return bytes(BYTE_ALPHABET[character] for character in token)
    return token.encode("utf-8")


def _read_byte_fallback(token: str) -> bytes:
    """Bytes of a SentencePiece token: `▁` is a space, `<0xE2>` a byte."""
    if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
        return bytes([int(match[1], 16)])
    return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode("utf-8")
