"""A GGUF model's tokenizer, and grammars over its tokens."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from lite_interp.engine import EngineFailure
from lite_interp.engine.chat import SpecialToken
from lite_interp.engine.library import alive
from lite_interp.engine.writing import Tokenizer
from lite_interp.errors import EngineError, one_line


class LlamaGrammar:
    """What an answer may go on with, as llama.cpp's grammars say; see `writing.Grammar`."""

    def __init__(self, vocabulary: Any, schema: str, n_vocab: int) -> None:
        """Make the grammar of a JSON schema.

        The least and greatest values of numbers are not part of such a grammar: list them as an
        `enum`.

        Raises:
            EngineError: the schema cannot be made into a grammar.
        """
        try:
            rules = json_schema_to_gbnf(schema)
        except (ValueError, LookupError, TypeError, *_BROKEN) as error:
            raise EngineError(f"not a JSON schema for an answer: {one_line(error)}") from error
        self._sampler: Any = llama_cpp.llama_sampler_init_grammar(
            vocabulary, rules.encode(), b"root"
        )
        if not self._sampler:
            raise EngineError(f"llama.cpp makes no grammar of this schema: {one_line(schema)}")
        self._n_vocab = n_vocab

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token, or end with it."""
        return bool(self._apply(np.array([token], np.int32), np.zeros(1, np.float32))[0] == 0)

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n_vocab,) logits with minus infinity for each token that is not allowed."""
        return self._apply(np.arange(self._n_vocab, dtype=np.int32), logits)

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed and ends nothing."""
        if not self.allows(token):  # llama.cpp would end the process
            raise ValueError(f"the grammar does not allow the token: {token}")
        llama_cpp.llama_sampler_accept(alive(self._sampler), token)

    def close(self) -> None:
        """Free it; closing twice is harmless."""
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)
        self._sampler = None

    def _apply(self, tokens: NDArray[np.int32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates["id"], candidates["logit"] = tokens, logits
        listed = llama_cpp.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data)),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        llama_cpp.llama_sampler_apply(alive(self._sampler), cast(Any, ctypes.byref(listed)))
        return candidates["logit"].copy()


_BROKEN = (AttributeError, AssertionError, RecursionError)
"""What the maker of grammars also raises for a schema that is none."""
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""One entry of llama.cpp's lists of candidate tokens."""


class LlamaTokenizer(Tokenizer):
    """A GGUF model's tokenizer."""

    def __init__(self, model: Any) -> None:
        """Read the special tokens of a loaded model."""
        self._vocab: Any = llama_cpp.llama_model_get_vocab(model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.add_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        bos = cast(int, llama_cpp.llama_vocab_bos(self._vocab))
        eos = cast(int, llama_cpp.llama_vocab_eos(self._vocab))
        self.bos = bos if bos >= 0 else None
        self.bos_text = self._text(bos)
        self.eos_text = self._text(eos)
        self.specials = self._specials()
        self._adds_space = self._decode(self._raw("a", False)) == b" a"

    def beginning(self, text: str) -> list[int]:
        """Tokens of plain text at the start of a prompt or behind a special token."""
        return self._raw(text, False)

    def going_on(self, text: str) -> list[int]:
        """Tokens of plain text behind other plain text: no space is put in front."""
        if not self._adds_space or not text:
            return self._raw(text, False)
        for before in ("\n", "\x01"):
            head = self._raw(before, False)
            tokens = self._raw(before + text, False)
            if tokens[: len(head)] == head:
                return tokens[len(head) :]
        return self._raw(text, False)

    def special(self, text: str) -> list[int]:
        """Tokens of a text in which names of special tokens become those tokens."""
        return self._raw(text, True)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_cpp.llama_token_to_piece(
                alive(self._vocab), token, cast(Any, buffer), size, 0, False
            )
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(llama_cpp.llama_vocab_is_eog(alive(self._vocab), token))

    def grammar(self, schema: str) -> LlamaGrammar:
        """The grammar of a JSON schema."""
        return LlamaGrammar(alive(self._vocab), schema, self.n_vocab)

    def close(self) -> None:
        """Let go of the model."""
        self._vocab = None

    def _raw(self, text: str, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        buffer = (llama_cpp.llama_token * size)()
        n = llama_cpp.llama_tokenize(
            alive(self._vocab), data, len(data), cast(Any, buffer), size, False, special
        )
        if n < 0:
            raise EngineFailure(f"a text of {len(data)} bytes cannot be tokenised")
        return buffer[:n]

    def _decode(self, tokens: list[int]) -> bytes:
        return b"".join(map(self.piece, tokens))

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text = cast(Any, llama_cpp.llama_vocab_get_text(self._vocab, token))
        return (text or b"").decode("utf-8", "replace")

    def _specials(self) -> dict[str, SpecialToken]:
        control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        defined = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        found: dict[str, SpecialToken] = {}
        for token in range(self.n_vocab):
            kind = llama_cpp.llama_vocab_get_attr(self._vocab, token)
            if not kind & (control | defined):
                continue
            text = self._text(token)
            if text.strip(" \t\r\n\u2581"):  # runs of white space are ordinary text
                found[text] = SpecialToken(
                    token,
                    not kind & control,
                    bool(kind & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP),
                    bool(kind & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP),
                )
        return found
