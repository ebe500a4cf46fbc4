"""Messages to token ids, so that no text of a message can become a special token.

    messages ─▶ names in place of contents ─template─▶ text ─▶ template text | contents

Special tokens are looked for in the template's text alone. What stands between two of them is
tokenised as plain text and in one go, contents and template together, as the model saw it in
training; except that it is cut for prefixes, and only behind a line break, where tokens end
anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from lite_interp.engine import ChatTokens
from lite_interp.engine.template import ChatTemplate, ChatTemplateError
from lite_interp.errors import EngineError, one_line
from lite_interp.prompts import Message, Piece


class SpecialToken(NamedTuple):
    """A token that templates name in their text."""

    id: int
    """Token id."""
    in_plain_text: bool = False
    """Whether llama.cpp finds it in plain text too (a user-defined token, not a control one)."""
    strips_left: bool = False
    """Whether white space before it is not part of the prompt."""
    strips_right: bool = False
    """Whether white space after it is not part of the prompt."""


class Vocabulary(Protocol):
    """What a chat needs to know of a tokenizer."""

    specials: Mapping[str, SpecialToken]
    """Special tokens by their text."""
    bos: int | None
    """The begin token."""
    bos_text: str
    """Its text, or empty."""
    eos_text: str
    """Text of the end token, or empty."""
    add_bos: bool
    """Whether the model wants a begin token."""

    def beginning(self, text: str) -> list[int]:
        """Tokens of plain text at the start of a prompt or behind a special token."""
        ...

    def going_on(self, text: str) -> list[int]:
        """Tokens of plain text behind other plain text."""
        ...


class Stretch(NamedTuple):
    """Plain text between two special tokens, or a part of it."""

    text: str
    """The text."""
    content: bool
    """Whether it comes from a message, not from the template."""
    trusted: bool
    """Whether a prompt file or the template says it."""


class Chat:
    """The chat format of one model."""

    def __init__(self, source: str | None, vocabulary: Vocabulary) -> None:
        """Compile the template.

        Args:
            source: the chat template; None for a base model, which gets plain text.
            vocabulary: the model's tokenizer.
        """
        self._vocabulary = vocabulary
        self._find_first = re.compile(
            "[" + "".join(re.escape(text[0]) for text in vocabulary.specials) + "]"
            if vocabulary.specials
            else r"(?!)"
        )
        self._longest = max(map(len, vocabulary.specials), default=0)
        try:
            self._template = (
                ChatTemplate(source, vocabulary.bos_text, vocabulary.eos_text) if source else None
            )
        except ChatTemplateError as error:
            raise _broken(error) from error

    def tokens(self, messages: Sequence[Message]) -> ChatTokens:
        """A chat open for the answer; see `Engine.chat`."""
        begun = messages[-1:] if messages and messages[-1].role == "assistant" else []
        stream = list(self._stream(messages[: len(messages) - len(begun)]))
        pieces = [piece for turn in begun for piece in turn.pieces if piece.text]
        stream += [Stretch(piece.text, True, piece.trusted) for piece in pieces]
        places = [i for i, part in enumerate(stream) if isinstance(part, Stretch)]
        contents = [i for i in places if _stretch(stream[i]).content]
        untrusted = [i for i in contents if not _stretch(stream[i]).trusted] or contents[-1:]
        marks = {untrusted[0], untrusted[-1]} if untrusted else set()
        ids, cuts = self._tokenize(stream, marks)
        first = cuts[min(marks)] if marks else 0
        last = cuts[max(marks)] if marks else 0
        extra = self._extra_bos(ids)
        ids = ids[extra:] if extra >= 0 else [self._bos(), *ids]
        return ChatTokens(
            ids[: max(0, last - extra)], ids[max(0, last - extra) :], max(0, first - extra)
        )

    def _bos(self) -> int:
        assert self._vocabulary.bos is not None
        return self._vocabulary.bos

    def _extra_bos(self, ids: list[int]) -> int:
        """Begin tokens to take away from the start; -1 = one to add."""
        bos = self._vocabulary.bos
        n = 0
        while bos is not None and n < len(ids) and ids[n] == bos:
            n += 1
        if n:
            return n - 1
        return -1 if self._vocabulary.add_bos and bos is not None else 0

    def _stream(self, messages: Sequence[Message]) -> Iterator[int | Stretch]:
        """The prompt as special tokens and stretches of plain text."""
        if not self._template:
            yield from _plain_format(messages)
            return
        text, contents = self._render(messages, self._template)
        strip = False
        for part in re.split(r"(QqContent\d+qQ)", text):
            if part in contents:
                for piece in contents[part]:
                    if piece.text:
                        yield Stretch(piece.text, True, piece.trusted)
                strip = False
                continue
            for token in self._split(part):
                if isinstance(token, str):
                    token = token.lstrip() if strip else token
                    if token:
                        yield Stretch(token, False, True)
                        strip = False
                else:
                    yield token.id
                    strip = token.strips_right

    def _render(
        self, messages: Sequence[Message], template: ChatTemplate
    ) -> tuple[str, dict[str, tuple[Piece, ...]]]:
        """The template's text with names in place of contents, and the contents by name."""
        reason = "the template leaves a message out"
        for turns in (messages, _without_system(messages)):
            contents = {f"QqContent{i}qQ": turn.pieces for i, turn in enumerate(turns)}
            names = list(contents)
            try:
                text = template.render(
                    [(turn.role, name) for turn, name in zip(turns, names, strict=True)]
                )
            except ChatTemplateError as error:
                reason = str(error)
                continue
            if re.findall(r"QqContent\d+qQ", text) == names:
                return text, contents
        raise _broken(reason)

    def _split(self, text: str) -> Iterator[str | SpecialToken]:
        """Template text as plain text and the special tokens in it, the longest first."""
        begin = position = 0
        while match := self._find_first.search(text, position):
            position = match.start()
            for end in range(min(len(text), position + self._longest), position, -1):
                token = self._vocabulary.specials.get(text[position:end])
                if token:
                    plain = text[begin:position]
                    yield plain.rstrip() if token.strips_left else plain
                    yield token
                    begin = position = end
                    break
            else:
                position += 1
        yield text[begin:]

    def _tokenize(
        self, stream: list[int | Stretch], marks: set[int]
    ) -> tuple[list[int], dict[int, int]]:
        """Token ids, and for each marked stretch the number of tokens before its line."""
        used = {part for part in stream if isinstance(part, int)}
        structural = [
            text
            for text, token in self._vocabulary.specials.items()
            if token.in_plain_text and token.id in used
        ]
        ids: list[int] = []
        counts: dict[int, int] = {}
        index = 0
        while index < len(stream):
            part = stream[index]
            if isinstance(part, int):
                ids.append(part)
                index += 1
                continue
            text, cuts = "", {0: []}
            while index < len(stream) and isinstance(part := stream[index], Stretch):
                if index in marks:
                    cuts.setdefault(text.rfind("\n") + 1, []).append(index)
                if part.content:
                    for place in _inside(structural, part.text):
                        cuts.setdefault(len(text) + place, [])
                text += part.text
                index += 1
            edges = [*sorted(cuts), len(text)]
            for start, stop in zip(edges, edges[1:], strict=False):
                counts |= dict.fromkeys(cuts[start], len(ids))
                if start < stop:
                    tokenize = self._vocabulary.going_on if start else self._vocabulary.beginning
                    ids += tokenize(text[start:stop])
        return ids, counts


def _stretch(part: int | Stretch) -> Stretch:
    assert isinstance(part, Stretch)
    return part


def _inside(structural: Sequence[str], text: str) -> Iterator[int]:
    """Places inside each name of a token that shapes this very chat: cut there, it is none."""
    for name in structural:
        for match in re.finditer(re.escape(name), text):
            yield match.start() + 1


def _plain_format(messages: Sequence[Message]) -> Iterator[Stretch]:
    """The format for a model that knows no chat: texts, a blank line between them."""
    for index, message in enumerate(messages):
        if index:
            yield Stretch("\n\n", False, True)
        for piece in message.pieces:
            if piece.text:
                yield Stretch(piece.text, True, piece.trusted)
    yield Stretch("\n", False, True)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with what the system says put in front of what the user says first."""
    said = [piece for turn in messages if turn.role == "system" for piece in turn.pieces]
    others = [turn for turn in messages if turn.role != "system"]
    user = next((i for i, turn in enumerate(others) if turn.role == "user"), None)
    if not said:
        return others
    if user is None:
        return [Message("user", tuple(said)), *others]
    joined = (*said, Piece("\n\n", True), *others[user].pieces)
    return [*others[:user], Message("user", joined), *others[user + 1 :]]


def _broken(reason: object) -> EngineError:
    return EngineError(
        f"the engine's chat template cannot be used: {one_line(reason)}",
        "use a GGUF file whose chat template takes a system, a user and an assistant in turn",
    )
