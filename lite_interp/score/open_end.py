"""Prompts that end where the window begins: what stands before it, and the window's own tokens.

The window begins a line, and tokens end at a line break anyway. So the tokens of the prompt
before the window, and those of the window behind them, are the tokens of the whole, and none of
them is partly the one and partly the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from lite_interp.engine import ChatTokens, Engine
from lite_interp.errors import UsageError, one_line
from lite_interp.prompts import Message, Piece, Prompt

ENDINGS = ("\n$window", "\n${window}")


def check_open(prompt: Prompt) -> None:
    """Raise `UsageError` unless `$window` stands once, as the last line of the begun answer."""
    texts = [prompt.begun_answer, *(message.text for message in prompt.messages)]
    n = sum(text.count(ending[1:]) for text in texts for ending in ENDINGS)
    if n != 1 or not prompt.begun_answer.endswith(ENDINGS):
        raise UsageError(
            f"the prompt {one_line(prompt.name)} does not end with a line that is: $window",
            "this scorer needs it as the last line of begun_answer, and nowhere else",
        )


def before_window(messages: Sequence[Message], engine: Engine) -> ChatTokens:
    """All tokens before the window as `prefix`, of messages whose window is empty."""
    chat = engine.chat(messages)
    return ChatTokens([*chat.prefix, *chat.rest], [], chat.root)


def spelled(text: str, messages: Sequence[Message], engine: Engine) -> list[int]:
    """Tokens of a text at the beginning of a line of the begun answer.

    A chat of the same turns reads it, because only a chat knows which names of tokens must not
    be read as these tokens.
    """
    if not text:
        return []
    turns = [Message(message.role, (Piece("x", True),)) for message in messages[:-1]]
    line = Message("assistant", (Piece("\n", True), Piece(text, False)))
    return engine.chat([*turns, line]).rest
