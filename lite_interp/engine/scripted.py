"""An engine without a model: it says what a table or a function tells it to say.

For tests, for the documentation, and for trying a study out before a model is there. Without a
script its numbers are random, but always the same for the same text, and they depend on all of
it; so it can stand for a model wherever only the handling of numbers matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lite_interp.engine import ChatTokens, engine_id
from lite_interp.engine.batched import check_places
from lite_interp.engine.chat import Chat, SpecialToken
from lite_interp.engine.writing import Writer, picked, streams
from lite_interp.errors import EngineError, one_line
from lite_interp.ids import generator
from lite_interp.prompts import Message
from lite_interp.records import Generation, Sampling

Write = Callable[[str], str] | Mapping[str, str]
"""Prompt → answer; or a table: the first key that occurs in the prompt gives the answer."""
Judge = Callable[[str], Mapping[str, float]]
"""Text so far → logits of the tokens that come next, by their text; all others have 0."""

CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n"
    "{% endfor %}<|assistant|>\n"
)
_WORDS = [space + word for word in ["Yes", "No", "yes", "no", "YES", "NO"] for space in ("", " ")]
_WORDS += [space + digit for digit in "0123456789" for space in ("", " ")][1::2]
_SPECIALS = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


class ScriptedTokenizer:
    """Bytes, a few answers as tokens of their own, and the special tokens of its chat format."""

    def __init__(self) -> None:
        """Number the tokens: 256 bytes, the words, the special tokens."""
        self._words = {word.encode(): 256 + i for i, word in enumerate(_WORDS)}
        first = 256 + len(_WORDS)
        self.specials: Mapping[str, SpecialToken] = {
            text: SpecialToken(first + i) for i, text in enumerate(_SPECIALS)
        }
        self.n_vocab = first + len(_SPECIALS)
        self.bos: int | None = self.specials["<|begin|>"].id
        self.bos_text, self.eos_text = "<|begin|>", "<|end|>"
        self.add_bos = True
        self._texts = [bytes([byte]) for byte in range(256)] + list(self._words)
        self._texts += [text.encode() for text in _SPECIALS]
        longest = sorted(self._words, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest)) + b"|.", re.DOTALL)

    def beginning(self, text: str) -> list[int]:
        """Tokens of plain text; the same wherever it stands."""
        found = self._pattern.findall(text.encode("utf-8", "replace"))
        return [self._words[part] if part in self._words else part[0] for part in found]

    going_on = beginning

    def special(self, text: str) -> list[int]:
        """Tokens of a text in which names of special tokens become those tokens."""
        names = "|".join(map(re.escape, _SPECIALS))
        tokens: list[int] = []
        for part in re.split(f"({names})", text):
            known = self.specials.get(part)
            tokens += [known.id] if known else self.beginning(part)
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special token."""
        return b"" if token >= self.n_vocab - len(_SPECIALS) else self._texts[token]

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token == self.specials["<|end|>"].id

    def grammar(self, schema: str) -> None:
        """None: a script says what it says."""

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the names of special ones."""
        return b"".join(self._texts[token] for token in tokens).decode("utf-8", "replace")


class ScriptedEngine:
    """An engine that follows a script; see `Engine` for its methods."""

    def __init__(
        self,
        write: Write | None = None,
        judge: Judge | None = None,
        name: str = "scripted",
        n_ctx: int = 4096,
    ) -> None:
        """Take a script.

        Args:
            write: what `generate` says; None = tokens drawn from the judge's numbers.
            judge: what `answers` and `logprobs` go by; None = random numbers that depend on the
                whole text.
            name: tells scripts apart: it is all that goes into the engine's id.
            n_ctx: tokens that one sequence may hold.
        """
        self._write = write
        self._judge = judge
        self._tokenizer = ScriptedTokenizer()
        self._chat = Chat(CHAT, self._tokenizer)
        self.id = engine_id("scripted:" + name, {"n_ctx": n_ctx})
        self.name = name
        self.n_ctx = n_ctx
        self.provenance: Mapping[str, Any] = {
            "id": self.id,
            "name": name,
            "architecture": "scripted",
            "settings": {"n_ctx": n_ctx},
        }
        self.n_evaluated = 0
        self.n_written = 0

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text that goes on from other text."""
        return self._tokenizer.special(text) if special else self._tokenizer.going_on(text)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the names of special ones: what a script is given."""
        return self._tokenizer.text(tokens)

    def chat(self, messages: Sequence[Message]) -> ChatTokens:
        """A chat in its own format, open for the answer."""
        return self._chat.tokens(messages)

    def logprobs(
        self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], root: int = 0
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each suffix token; one (len(suffix),) for each suffix, nats."""
        if not prefix:
            raise ValueError("the first token has no probability without a prefix")
        self._check(prefix, suffixes, root)
        return [self._spoken(prefix, suffix) for suffix in suffixes]

    def answers(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        choices: Sequence[Sequence[int]],
        root: int = 0,
    ) -> NDArray[np.float32]:
        """Log-probability of each choice after each suffix; (n_suffixes, n_choices), nats."""
        if any(not choice for choice in choices):
            raise ValueError("a choice needs a token")
        if not prefix and any(not suffix for suffix in suffixes):
            raise ValueError("a choice has no probability without tokens before it")
        self._check(prefix, suffixes, root, max(map(len, choices), default=1) - 1)
        values = [
            [self._spoken([*prefix, *suffix], choice).sum() for choice in choices]
            for suffix in suffixes
        ]
        return np.array(values, np.float32).reshape(len(suffixes), len(choices))

    def digits(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        places: Sequence[Sequence[int]],
        highest: int = 10,
        root: int = 0,
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each rating at each place; (n_places, highest + 1) each, nats."""
        if not 1 <= highest <= 10:
            raise ValueError(f"the highest rating is not within 1 to 10: {highest}")
        check_places(suffixes, places)
        self._check(prefix, suffixes, root, 1 if highest == 10 else 0)
        return [
            np.array(
                [self._rated([*prefix, *suffix[: place + 1]], highest) for place in each],
                np.float32,
            ).reshape(len(each), highest + 1)
            for suffix, each in zip(suffixes, places, strict=True)
        ]

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Sampling, root: int = 0
    ) -> list[Generation]:
        """One answer for each prompt."""
        if any(not prompt for prompt in prompts):
            raise ValueError("an answer needs a prompt")
        if any(list(prompt[:root]) != list(prompts[0][:root]) for prompt in prompts):
            raise ValueError(f"the prompts do not share their first {root} tokens")
        self._check([], prompts, 0, how.max_tokens)
        return [
            self._answer(prompt, how, stream)
            for prompt, stream in zip(prompts, streams(prompts), strict=True)
        ]

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> ScriptedEngine:
        """The engine itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to free."""

    def _answer(self, prompt: Sequence[int], how: Sampling, stream: str) -> Generation:
        tokenizer = self._tokenizer
        writer = Writer(how, stream, tokenizer)
        writer.n_prompt = len(prompt)
        said = self._said(prompt)
        tokens = list(prompt)
        while not writer.done:
            if said is None:
                logits = self._logits(tokens)
            else:
                logits = np.full(tokenizer.n_vocab, -np.inf, np.float32)
                logits[said[len(tokens) - len(prompt)]] = 0.0
            tokens.append(writer.write(logits))
            self.n_written += 1
        return writer.result()

    def _said(self, prompt: Sequence[int]) -> list[int] | None:
        """The tokens that the script says to a prompt, the end token behind them."""
        if self._write is None:
            return None
        text = self.text(prompt)
        if callable(self._write):
            answer = self._write(text)
        else:
            answer = next((said for key, said in self._write.items() if key in text), "")
        return [*self.tokenize(answer), self._tokenizer.specials["<|end|>"].id]

    def _spoken(self, before: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Log-probabilities of tokens, each after all before it."""
        history = list(before)
        values = np.zeros(len(tokens), np.float32)
        for place, token in enumerate(tokens):
            values[place] = picked(self._logits(history)[None], np.array([token]))[0]
            history.append(token)
        return values

    def _rated(self, before: Sequence[int], highest: int) -> list[float]:
        """Log-probability of each rating: of 1 only if no 0 follows, of 10 as 1 and then 0."""
        values = [
            float(self._spoken(before, self.tokenize(str(rating)))[0])
            for rating in range(min(highest, 9) + 1)
        ]
        if highest < 10:
            return values
        zero = float(self._spoken([*before, *self.tokenize("1")], self.tokenize("0"))[0])
        return [values[0], values[1] + np.log1p(-np.exp(zero)), *values[2:], values[1] + zero]

    def _logits(self, history: Sequence[int]) -> NDArray[np.float32]:
        n_vocab = self._tokenizer.n_vocab
        if self._judge is None:
            drawn = generator(0, "scripted", *map(int, history)).standard_normal(n_vocab)
            return drawn.astype(np.float32)
        logits = np.zeros(n_vocab, np.float32)
        for text, value in self._judge(self.text(history)).items():
            tokens = self.tokenize(text)
            if len(tokens) != 1:
                raise ValueError(f"not one token: {text!r}")
            logits[tokens[0]] = value
        return logits

    def _check(
        self,
        prefix: Sequence[int],
        items: Sequence[Sequence[int]],
        root: int,
        n_new: int = 0,
    ) -> None:
        if not 0 <= root <= len(prefix):
            raise ValueError(f"root {root} is not within the prefix of {len(prefix)} tokens")
        for tokens in (prefix, *items):
            if any(not 0 <= token < self._tokenizer.n_vocab for token in tokens):
                raise ValueError("a token id is not in the engine's vocabulary")
        longest = len(prefix) + max(map(len, items), default=0)
        if longest + n_new > self.n_ctx:
            raise EngineError(
                f"a prompt of {longest} tokens and {n_new} more do not fit into a context of "
                f"{one_line(self.name)}: {self.n_ctx}",
                f"--n-ctx {longest + n_new}",
            )
        self.n_evaluated += len(prefix) + sum(map(len, items))
