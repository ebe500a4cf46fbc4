"""What an engine behind a server needs of the server, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from lite_interp.engine import EngineFailure
from lite_interp.engine.chat import SpecialToken
from lite_interp.engine.wire import Wire, dig
from lite_interp.records import Sampling

GREATEST_LOGPROB = 1e-3
"""Nats; a probability is at most 1, and servers round."""


class Facts(NamedTuple):
    """What a server says of itself and its model."""

    kind: Literal["llama.cpp", "vllm"]
    """Which server it is."""
    model: str
    """Name of the model."""
    n_ctx: int
    """Tokens that one sequence may hold."""
    n_parallel: int
    """Requests that it works on side by side."""
    n_vocab: int
    """Number of tokens; 0 = it does not say."""
    template: str | None
    """Chat template; None for a base model."""
    model_facts: Mapping[str, Any]
    """What else tells the model from others, such as its size; part of the engine's id."""
    build: Mapping[str, Any]
    """Version, path of the model and the like; recorded alone."""


class Next(NamedTuple):
    """What may come next."""

    values: dict[int, float]
    """Log-probabilities by token, nats."""
    n_evaluated: int
    """Tokens that were evaluated for it."""


class Written(NamedTuple):
    """An answer as the server gives it."""

    text: str
    """What stands before a stop text."""
    tokens: list[int]
    """Its tokens, those of the stop text too, the end token not."""
    logprobs: list[float | None]
    """Their log-probabilities, nats; None where the server does not say."""
    stop: Literal["end", "stop", "length"]
    """Why it ended."""
    n_evaluated: int
    """Tokens of the prompt that were evaluated for it."""
    n_written: int
    """Tokens written, the end token too."""


class Service(Protocol):
    """One kind of server. Every method raises `EngineFailure` and `Refusal` as `Wire.ask`."""

    facts: Facts
    vocabulary: ServedVocabulary

    def following(self, prompt: Sequence[int], wanted: Sequence[int]) -> Next:
        """Log-probabilities of the wanted tokens after a prompt; `values` has each of them."""
        ...

    def spoken(self, prompt: Sequence[int], first: int) -> tuple[list[float], int]:
        """Log-probabilities of the prompt's tokens from `first` on, and tokens evaluated."""
        ...

    def write(self, prompt: Sequence[int], how: Sampling, seed: int) -> Written:
        """An answer to a prompt."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...


class ServedVocabulary:
    """A tokenizer behind a server, as `Chat` needs it."""

    bos: int | None = None
    bos_text: str = ""
    eos_text: str = ""
    add_bos: bool = False
    specials: Mapping[str, SpecialToken]

    def __init__(self, tokens: Callable[[str, bool], list[int]], adds_space: bool) -> None:
        """Begin without special tokens.

        Args:
            tokens: text and whether names of special tokens become those tokens → token ids.
            adds_space: whether the tokenizer puts a space in front of every text.
        """
        self._tokens = tokens
        self._adds_space = adds_space
        self.specials = {}

    def special(self, text: str) -> list[int]:
        """Tokens of a text in which names of special tokens become those tokens."""
        return self._tokens(_clean(text), True) if text else []

    def beginning(self, text: str) -> list[int]:
        """Tokens of plain text at the start of a prompt or behind a special token."""
        return self._tokens(_clean(text), False) if text else []

    def going_on(self, text: str) -> list[int]:
        """Tokens of plain text behind other plain text: no space is put in front."""
        if not self._adds_space or not text:
            return self.beginning(text)
        for before in ("\n", "\x01"):
            head = self.beginning(before)
            tokens = self.beginning(before + text)
            if tokens[: len(head)] == head:
                return tokens[len(head) :]
        return self.beginning(text)


def _clean(text: str) -> str:
    """Valid Unicode: half a character would make a request that is no JSON to most servers."""
    return text.encode("utf-8", "replace").decode()


def token_ids(data: Any, *path: str | int) -> list[int]:
    """A list of token ids inside an answer."""
    return [dig(token, int) for token in dig(data, list, *path)]


def logprob(data: Any, *path: str | int) -> float:
    """A log-probability inside an answer."""
    value = dig(data, float, *path)
    if value > GREATEST_LOGPROB:
        raise EngineFailure(f"the server gives a log-probability above 0: {value:g}")
    return min(value, 0.0)


def echoed(wire: Wire, model: str, prompt: Sequence[int], first: int) -> list[float]:
    """Log-probabilities of a prompt's tokens, from a server that repeats the prompt with them.

    Args:
        wire: the server.
        model: name of its model.
        prompt: token ids.
        first: index of the first token that is wanted, at least 1.

    Returns:
        len(prompt) - first of them, nats.
    """
    body = {
        "model": model,
        "prompt": list(prompt),
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "temperature": 0,
        "return_tokens_as_token_ids": True,
    }
    found = dig(wire.ask("/v1/completions", body), dict, "choices", 0, "logprobs")
    values = dig(found, list, "token_logprobs")
    names = dig(found, list, "tokens")
    if len(values) < len(prompt) or len(names) != len(values):
        raise EngineFailure("the server gives no log-probabilities of a prompt")
    for token, name in zip(prompt, names, strict=False):
        if isinstance(name, str) and name.startswith("token_id:") and name != f"token_id:{token}":
            raise EngineFailure("the server repeats another prompt than it was given")
    return [logprob(values, place) for place in range(first, len(prompt))]
