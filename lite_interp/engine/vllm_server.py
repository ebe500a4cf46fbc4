"""vLLM's server, through its OpenAI-like completions and its tokenizer addresses.

Written from vLLM's documentation and source of versions 0.10 to 0.2x, and tested against an
imitation; it was not run with vLLM itself. What it gives is checked when it is opened.

Prompts with log-probabilities do not use vLLM's cache of prefixes: each costs the whole prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lite_interp.engine import EngineFailure
from lite_interp.engine.chat import SpecialToken
from lite_interp.engine.llama_server import read_schema
from lite_interp.engine.serving import (
    Facts,
    Next,
    ServedVocabulary,
    Written,
    echoed,
    logprob,
    token_ids,
)
from lite_interp.engine.wire import Refusal, Wire, dig
from lite_interp.errors import EngineError, one_line
from lite_interp.records import Sampling

N_LIKELIEST = 20
"""Next tokens that vLLM gives at most, unless it is started with `--max-logprobs`."""
N_PARALLEL = 32
"""Requests sent side by side: it takes any number and makes batches of them."""


class VllmServer:
    """A running `vllm serve`; see `Service` for its methods.

    Its tokenizer turns names of special tokens into them wherever they stand. So the list of
    these names is asked for, and a text that holds one is cut inside it and tokenised in parts.
    """

    def __init__(self, wire: Wire, entry: dict[str, Any]) -> None:
        """Read what the server says of itself.

        Args:
            wire: the server.
            entry: the model in its answer to `/v1/models`.
        """
        self._wire = wire
        self._model = dig(entry, str, "id")
        info = self._tokenizer_info()
        self._names: list[str] = []
        begun = dig(self._ask_tokens("a"), str, "token_strs", 0)
        self.vocabulary = ServedVocabulary(self._tokenize, begun.startswith("\u2581"))
        self._read_tokenizer(info)
        template = info.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise EngineFailure("the server gives several chat templates")
        version = wire.ask("/version")
        self.facts = Facts(
            kind="vllm",
            model=self._model,
            n_ctx=dig(entry, int, "max_model_len"),
            n_parallel=N_PARALLEL,
            n_vocab=0,
            template=template,
            model_facts={"root": str(entry.get("root"))},
            build={"build": str(version.get("version")) if isinstance(version, dict) else ""},
        )

    def following(self, prompt: Sequence[int], wanted: Sequence[int]) -> Next:
        """Log-probabilities of the wanted tokens after a prompt."""
        body = {"max_tokens": 1, "temperature": 0, "logprobs": N_LIKELIEST}
        answer = self._complete(prompt, body)
        top = dig(answer, dict, "choices", 0, "logprobs", "top_logprobs", 0)
        values = {_id(name): logprob(top, name) for name in top}
        n_evaluated = _evaluated(answer)
        for token in dict.fromkeys(wanted):
            if token not in values:
                line = [*prompt, token]
                (values[token],) = echoed(self._wire, self._model, line, len(prompt))
                n_evaluated += len(line)
        return Next({token: values[token] for token in wanted}, n_evaluated)

    def spoken(self, prompt: Sequence[int], first: int) -> tuple[list[float], int]:
        """Log-probabilities of the prompt's tokens from `first` on, and tokens evaluated."""
        return echoed(self._wire, self._model, prompt, first), len(prompt)

    def write(self, prompt: Sequence[int], how: Sampling, seed: int) -> Written:
        """An answer to a prompt."""
        body: dict[str, Any] = {
            "max_tokens": how.max_tokens,
            "temperature": max(0.0, how.temperature),
            "seed": seed,
            "logprobs": 1,
            "stop": [text for text in how.stop if text],
        }
        if how.schema:
            schema = {"name": "answer", "schema": read_schema(how.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        answer = self._complete(prompt, body)
        choice = dig(answer, dict, "choices", 0)
        tokens = [_id(name) for name in dig(choice, list, "logprobs", "tokens")]
        given = dig(choice, list, "logprobs", "token_logprobs")
        if len(given) != len(tokens):
            raise EngineFailure("the server's answer has tokens without a log-probability")
        values: list[float | None] = [logprob(given, place) for place in range(len(tokens))]
        n_written = len(tokens)
        reason = dig(choice, str, "finish_reason")
        if reason == "stop":
            reason = "stop" if isinstance(choice.get("stop_reason"), str) else "end"
        if reason not in ("stop", "end", "length"):
            raise EngineFailure(f"the server does not say why an answer ended: {one_line(reason)}")
        if reason == "end":
            tokens, values = tokens[:-1], values[:-1]
        return Written(
            text=dig(choice, str, "text"),
            tokens=tokens,
            logprobs=values,
            stop=reason,  # pyright: ignore[reportArgumentType]
            n_evaluated=_evaluated(answer),
            n_written=n_written,
        )

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        body = {"model": self._model, "tokens": list(tokens)}
        return dig(self._wire.ask("/detokenize", body), str, "prompt")

    def _complete(self, prompt: Sequence[int], body: dict[str, Any]) -> Any:
        """Ask for a completion, with the model maker's own sampling set aside."""
        common = {
            "model": self._model,
            "prompt": list(prompt),
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "return_tokens_as_token_ids": True,
        }
        return self._wire.ask("/v1/completions", common | body)

    def _tokenizer_info(self) -> dict[str, Any]:
        """The tokenizer's configuration; without it corpus text could become special tokens."""
        try:
            info = dig(self._wire.ask("/tokenizer_info"), dict)
        except Refusal as refusal:
            raise _no_names(self._wire) from refusal
        if not isinstance(info.get("added_tokens_decoder"), dict):
            raise _no_names(self._wire)
        return info

    def _read_tokenizer(self, info: dict[str, Any]) -> None:
        """Take over names of special tokens, begin and end."""
        vocabulary = self.vocabulary
        specials: dict[str, SpecialToken] = {}
        for token, value in info["added_tokens_decoder"].items():
            text = _named(value)
            if not re.fullmatch(r"[0-9]{1,9}", token):
                raise EngineFailure("the server's special tokens are not of the expected form")
            if len(text.strip()) > 1:  # runs of white space are ordinary text
                specials[text] = SpecialToken(int(token))
        vocabulary.specials = specials
        # One that begins with white space would be cut again and again; it is refused if it comes.
        self._names = sorted(name for name in specials if not name[0].isspace())
        vocabulary.bos_text = _named(info.get("bos_token"))
        vocabulary.eos_text = _named(info.get("eos_token"))
        bos = specials.get(vocabulary.bos_text)
        vocabulary.bos = bos.id if bos else None
        asked = {"model": self._model, "prompt": "a", "add_special_tokens": True}
        begun = token_ids(self._wire.ask("/tokenize", asked), "tokens")
        vocabulary.add_bos = bos is not None and begun[:1] == [bos.id]

    def _ask_tokens(self, text: str) -> Any:
        asked = {"model": self._model, "prompt": text, "add_special_tokens": False}
        return self._wire.ask("/tokenize", asked | {"return_token_strs": True})

    def _tokenize(self, text: str, special: bool) -> list[int]:
        if special:
            return token_ids(self._ask_tokens(text), "tokens")
        inside = {
            match.start() + 1
            for name in self._names
            for match in re.finditer(f"(?={re.escape(name)})", text)
        }
        edges = [0, *sorted(inside), len(text)]
        tokens: list[int] = []
        for start, stop in zip(edges, edges[1:], strict=False):
            part = text[start:stop]
            if start:  # behind another part no space belongs in front of it
                tokens += self.vocabulary.going_on(part)
            else:
                tokens += token_ids(self._ask_tokens(part), "tokens")
        names = {token.id for token in self.vocabulary.specials.values()}
        if names.intersection(tokens):
            raise EngineFailure("the server makes a special token of plain text")
        return tokens


def is_vllm(wire: Wire) -> dict[str, Any] | None:
    """The model that the server offers, if it is vLLM."""
    try:
        entry = dig(wire.ask("/v1/models"), dict, "data", 0)
    except (Refusal, EngineFailure):
        return None
    return entry if entry.get("owned_by") == "vllm" else None


def _no_names(wire: Wire) -> EngineError:
    return EngineError(
        f"this server does not name its special tokens, which corpus text could become: "
        f"{wire.address}",
        "start vLLM with --enable-tokenizer-info-endpoint, or use llama-server",
    )


def _named(token: Any) -> str:
    """The text of a token that a tokenizer's configuration names; empty if it names none."""
    text = token.get("content") if isinstance(token, dict) else token
    return dig(text, str) if text is not None else ""


def _id(name: Any) -> int:
    """The token that `token_id:7` means."""
    found = re.fullmatch(r"token_id:(\d{1,9})", dig(name, str))
    if not found:
        raise EngineFailure("the server gives no token ids")
    return int(found[1])


def _evaluated(answer: Any) -> int:
    """Tokens of the prompt less those that were cached, if the server says how many."""
    n = dig(answer, int, "usage", "prompt_tokens")
    details = answer["usage"].get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return n - cached if type(cached) is int and 0 <= cached <= n else n
