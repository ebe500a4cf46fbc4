"""One question about each of several latents, answered side by side."""

from __future__ import annotations

from collections.abc import Sequence

from lite_interp.engine import EngineFailure
from lite_interp.explain.answers import read, told_lines
from lite_interp.explain.base import Answer, Evidence, Means, Question
from lite_interp.records import Sampling


def ask_engine(group: Sequence[Evidence], means: Means, question: Question) -> list[Answer]:
    """An engine reads what is known of a latent and goes on from a begun answer.

    An engine that fails is asked about each latent by itself, so that only what cannot be
    answered has no answer.
    """
    engine, prompt = means.asking()
    settings = means.settings
    how = Sampling(
        prompt.max_tokens or settings["max_tokens"],
        settings["temperature"],
        settings["seed"],
        () if prompt.answer_mark else ("\n",),
    )
    questions = [question(known, prompt, settings) for known in group]
    asked = [messages for messages in questions if not isinstance(messages, str)]
    written = []
    try:
        chats = [engine.chat(messages) for messages in asked]
        if chats:
            root = min(tokens.root for tokens in chats)
            written = engine.generate([[*each.prefix, *each.rest] for each in chats], how, root)
    except EngineFailure as failure:
        if len(group) == 1:
            return [Answer(None, "", f"engine: {failure}")]
        return [ask_engine([known], means, question)[0] for known in group]
    told = told_lines(prompt)
    answers = iter(
        [read(each.text, told, prompt.answer_mark)._replace(usage=each.usage) for each in written]
    )
    return [
        Answer(None, "", each) if isinstance(each, str) else next(answers) for each in questions
    ]
