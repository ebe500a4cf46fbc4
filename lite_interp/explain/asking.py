"""One question about each of several latents, answered side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lite_interp.engine import EngineFailure
from lite_interp.explain.answers import read, told_lines
from lite_interp.explain.base import Answer, Evidence, Means, Question
from lite_interp.records import Sampling


def ask_engine(group: Sequence[Evidence], means: Means, question: Question) -> list[Answer]:
    """An engine reads what is known of a latent and goes on from a begun answer.

    A latent may be there several times, one after the other: then it is answered in as many ways.
    An engine that fails is asked about each latent by itself, so that only what cannot be
    answered has no answer; all questions about one together, or they would be answered alike.
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
            prompts = [[*each.prefix, *each.rest] for each in chats]
            root = min(tokens.root for tokens in chats)
            if len(prompts) > 1 and all(each == prompts[0] for each in prompts):
                root = len(prompts[0])  # one prompt is read once, however many answers it gets
            written = engine.generate(prompts, how, root)
    except EngineFailure as failure:
        parts = [list(part) for _, part in groupby(group, key=lambda known: known.examples.id)]
        if len(parts) == 1:
            return [Answer(None, "", f"engine: {failure}")] * len(group)
        return [answer for part in parts for answer in ask_engine(part, means, question)]
    told = told_lines(prompt)
    answers = iter(
        [read(each.text, told, prompt.answer_mark)._replace(usage=each.usage) for each in written]
    )
    return [
        Answer(None, "", each) if isinstance(each, str) else next(answers) for each in questions
    ]
