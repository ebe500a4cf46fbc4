"""llama.cpp's own server, `llama-server`, through its completion and tokenizer addresses.

It gives the log-probabilities of the likeliest next tokens, and that of the token it draws. So a
token that is not among the likeliest is asked for by making the server draw it: a bias does that,
and the log-probabilities are those from before any bias.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lite_interp.engine import EngineFailure
from lite_interp.engine.chat import SpecialToken
from lite_interp.engine.serving import (
    Facts,
    Next,
    ServedVocabulary,
    Written,
    echoed,
    logprob,
    token_ids,
)
from lite_interp.engine.template import ChatTemplate, ChatTemplateError
from lite_interp.engine.wire import Refusal, Wire, dig
from lite_interp.errors import EngineError, one_line
from lite_interp.records import Sampling

N_LIKELIEST = 100
"""Next tokens asked for at first: those that are wanted are nearly always among them."""
MOST_DRAWN = 24
"""Tokens asked for one by one at most: beyond that the whole vocabulary is quicker."""
LOWEST_LOGPROB = -104.0
"""Nats. The server's numbers end at a probability of 1e-45, below which they are 0; that is all
that is known of such a token, and it is given this value."""

_BIAS = 1e4
_FIELDS = ["content", "tokens", "stop_type", "stopping_word", "timings", "completion_probabilities"]
_STOPS = {"eos": "end", "word": "stop", "limit": "length"}
_CHATS = (
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("user",),
)


class LlamaServer:
    """A running `llama-server`; see `Service` for its methods.

    It lists no special tokens. Those that the chat template writes are found by what its text
    becomes when the server looks for special tokens and when it does not. A token that the
    template names for other kinds of chats alone (tools, images) is not found, and such a name in
    corpus text is safe as far as the server's own plain tokenisation is: control tokens are, and
    tokens that a model maker defined as plain text are not, as with a GGUF file.
    """

    def __init__(self, wire: Wire, props: dict[str, Any]) -> None:
        """Read what the server says of itself.

        Args:
            wire: the server.
            props: its answer to `/props`.
        """
        self._wire = wire
        n_ctx = dig(props, int, "default_generation_settings", "n_ctx")
        entry = dig(wire.ask("/v1/models"), dict, "data", 0)
        meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
        path = props.get("model_path")
        name = props.get("model_alias") or entry.get("id") or path
        if not isinstance(name, str) or not name:
            raise EngineFailure("the server does not name its model")
        self.vocabulary = ServedVocabulary(self._tokenize, self._adds_space())
        template = self._read_tokenizer(props)
        self.facts = Facts(
            kind="llama.cpp",
            # Without an alias the name is a path, which is another one on another machine.
            model=name.replace("\\", "/").rpartition("/")[2] or name,
            n_ctx=n_ctx,
            n_parallel=max(1, dig(props, int, "total_slots") if "total_slots" in props else 1),
            n_vocab=dig(meta, int, "n_vocab") if "n_vocab" in meta else 0,
            template=template,
            model_facts={
                key: dig(meta, int, key)
                for key in ("n_vocab", "n_params", "size", "n_ctx_train")
                if key in meta
            },
            build={"build": str(props.get("build_info")), "model_path": str(path)},
        )

    def following(self, prompt: Sequence[int], wanted: Sequence[int]) -> Next:
        """Log-probabilities of the wanted tokens after a prompt."""
        values, n_evaluated = self._peek(prompt, wanted[0], N_LIKELIEST)
        missing = [token for token in dict.fromkeys(wanted) if token not in values]
        for token in missing if len(missing) <= MOST_DRAWN else ():
            more, n = self._peek(prompt, token, 1)
            values, n_evaluated = more | values, n_evaluated + n
        if any(token not in values for token in wanted):
            # Of a token that ends inside a character the server says nothing when it is drawn.
            more, n = self._peek(prompt, None, self.facts.n_vocab or 1 << 20)
            values, n_evaluated = more | values, n_evaluated + n
        if any(token not in values for token in wanted):
            raise EngineFailure("the server does not say how likely a token is")
        return Next({token: values[token] for token in wanted}, n_evaluated)

    def spoken(self, prompt: Sequence[int], first: int) -> tuple[list[float], int]:
        """Log-probabilities of the prompt's tokens; most builds do not give them."""
        return echoed(self._wire, self.facts.model, prompt, first), len(prompt)

    def write(self, prompt: Sequence[int], how: Sampling, seed: int) -> Written:
        """An answer to a prompt."""
        greedy = how.temperature <= 0
        body: dict[str, Any] = {
            "n_predict": how.max_tokens,
            "n_probs": 1,
            "return_tokens": True,
            "samplers": ["top_k", "temperature"],
            "top_k": 1 if greedy else 0,
            "temperature": 0.0 if greedy else how.temperature,
            "dynatemp_range": 0.0,
            "seed": seed,
            "stop": [text for text in how.stop if text],
        }
        if how.schema:
            body["json_schema"] = read_schema(how.schema)
        answer = self._complete(prompt, body)
        stop = dig(answer, str, "stop_type")
        if stop not in _STOPS:
            raise EngineFailure(f"the server does not say why an answer ended: {one_line(stop)}")
        tokens = token_ids(answer, "tokens")
        values = self._values(answer, tokens)
        if stop == "eos":
            tokens, values = tokens[:-1], values[:-1]
        return Written(
            text=dig(answer, str, "content"),
            tokens=tokens,
            logprobs=values,
            stop=_STOPS[stop],  # pyright: ignore[reportArgumentType]
            n_evaluated=dig(answer, int, "timings", "prompt_n"),
            n_written=dig(answer, int, "timings", "predicted_n"),
        )

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return dig(self._wire.ask("/detokenize", {"tokens": list(tokens)}), str, "content")

    def _tokenize(self, text: str, special: bool, **more: bool) -> list[int]:
        return token_ids(self._ask_tokens(text, special, **more), "tokens")

    def _ask_tokens(self, text: str, special: bool, **more: bool) -> Any:
        asked = {"content": text, "add_special": False, "parse_special": special, **more}
        return self._wire.ask("/tokenize", asked)

    def _adds_space(self) -> bool:
        found = self._ask_tokens("a", False, with_pieces=True)
        return dig(found, str, "tokens", 0, "piece").startswith(" ")

    def _complete(self, prompt: Sequence[int], body: dict[str, Any]) -> Any:
        """Ask for a completion, with all that a server can be started with set aside."""
        common = {
            "prompt": list(prompt),
            "cache_prompt": True,
            "mirostat": 0,
            "ignore_eos": False,
            "logit_bias": [],
            "post_sampling_probs": False,
            "response_fields": _FIELDS,
        }
        return self._wire.ask("/completion", common | body)

    def _peek(
        self, prompt: Sequence[int], drawn: int | None, n_likeliest: int
    ) -> tuple[dict[int, float], int]:
        """Log-probabilities of the likeliest tokens and of one to be drawn; tokens evaluated."""
        body = {
            "n_predict": 1,
            "n_probs": n_likeliest,
            "samplers": ["top_k"],
            "top_k": 1,
            "temperature": 0.0,
            "logit_bias": [[self._plain if drawn is None else drawn, _BIAS]],
        }
        answer = self._complete(prompt, body)
        n_evaluated = dig(answer, int, "timings", "prompt_n")
        if not dig(answer, dict).get("completion_probabilities"):
            return {}, n_evaluated
        first = dig(answer, dict, "completion_probabilities", 0)
        entries = [*dig(first, list, "top_logprobs"), first]
        return {dig(each, int, "id"): _floored(each) for each in entries}, n_evaluated

    def _values(self, answer: Any, tokens: list[int]) -> list[float | None]:
        """Log-probabilities of an answer's tokens, None where the server leaves them out.

        It leaves out tokens that end inside a character, and as many at the end as the stop text
        would have on its own. Where it is not clear which are missing, none is taken.
        """
        entries = dig(answer, dict).get("completion_probabilities") or []
        word = answer.get("stopping_word") or ""
        n_cut = len(self._tokenize(dig(word, str), False)) if word else 0
        n_given = max(0, len(tokens) - n_cut)
        ids = [dig(each, int, "id") for each in dig(entries, list)]
        if ids != tokens[:n_given]:
            return [None] * len(tokens)
        return [_floored(each) for each in entries] + [None] * (len(tokens) - n_given)

    def _read_tokenizer(self, props: dict[str, Any]) -> str | None:
        """What the chat needs of the tokenizer; the chat template, if it is the model's own."""
        vocabulary = self.vocabulary
        plain = self._tokenize(".", False)
        if not plain:
            raise EngineFailure("the server does not tokenise a text")
        self._plain = plain[-1]
        vocabulary.bos_text = dig(props, str, "bos_token") if "bos_token" in props else ""
        vocabulary.eos_text = dig(props, str, "eos_token") if "eos_token" in props else ""
        if vocabulary.bos_text:
            bos = vocabulary.special(vocabulary.bos_text)
            vocabulary.bos = bos[0] if len(bos) == 1 else None
            asked = {"content": "a", "add_special": True, "parse_special": False}
            vocabulary.add_bos = (
                token_ids(self._wire.ask("/tokenize", asked), "tokens")[:1] == bos[:1]
            )
        template = props.get("chat_template") or None
        if template is not None:
            vocabulary.specials = self._specials(dig(template, str))
        # A model without a template is served with a common one, whose tokens it may not know.
        if template and "<|im_start|>" in template and "<|im_start|>" not in vocabulary.specials:
            return None
        return template

    def _specials(self, template: str) -> dict[str, SpecialToken]:
        """The special tokens that a chat template writes, by their text."""
        found: dict[str, SpecialToken] = {}
        for roles in _CHATS:
            try:
                text = ChatTemplate(
                    template, self.vocabulary.bos_text, self.vocabulary.eos_text
                ).render([(role, "x") for role in roles])
            except ChatTemplateError:
                continue
            pieces = dig(self._ask_tokens(text, True, with_pieces=True), list, "tokens")
            for each in pieces:
                token, piece = dig(each, int, "id"), each.get("piece")
                if isinstance(piece, str) and piece.strip() and piece not in found:
                    special = self._as_special(token, piece)
                    if special:
                        found[piece] = special
        return found

    def _as_special(self, token: int, piece: str) -> SpecialToken | None:
        """What kind of special token this is; None for an ordinary one."""
        plain = self._tokenize(piece, False)
        if plain[-1:] == [token] and len(plain) <= 2:
            # Either an ordinary token, or one that plain text gives as well. Only a name in
            # brackets can be the latter; to take an ordinary one for it does no harm.
            marked = len(piece) > 2 and not (piece[0].isalnum() or piece[-1].isalnum())
            if not marked or piece[0].isspace() or piece[-1].isspace():
                return None
            return SpecialToken(token, in_plain_text=True)
        around = dig(self._ask_tokens(f"x\n{piece}\nx", True, with_pieces=True), list, "tokens")
        texts = [str(each.get("piece")) if isinstance(each, dict) else "" for each in around]
        if piece not in texts:
            return None
        place = texts.index(piece)
        return SpecialToken(
            token,
            strips_left="\n" not in "".join(texts[:place]),
            strips_right="\n" not in "".join(texts[place + 1 :]),
        )


def read_schema(schema: str) -> dict[str, Any]:
    """A JSON schema as an object; `EngineError` if it is none."""
    try:
        found = json.loads(schema)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EngineError(f"no JSON schema: {one_line(schema)[:80]}")
    return found


def is_llama_server(wire: Wire) -> dict[str, Any] | None:
    """The server's properties, if it is llama.cpp's."""
    try:
        props = wire.ask("/props")
    except Refusal as refusal:
        if refusal.status not in (404, 405, 501):
            raise
        return None
    known = isinstance(props, dict) and "default_generation_settings" in props
    return props if known else None


def _floored(entry: Any) -> float:
    return max(LOWEST_LOGPROB, logprob(entry, "logprob"))
