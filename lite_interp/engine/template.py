"""Render a model's own chat template, in a sandbox: the template is part of a downloaded file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TODAY = datetime(2024, 7, 26)
"""The date that templates are told: a prompt must not change from one day to the next."""

OPENED = (
    ("<think>", "\n\n</think>\n\n"),
    ("<|start|>assistant", "<|channel|>final<|message|>"),
)
"""(end of a rendered prompt, what to add so that the answer itself comes next)."""


class ChatTemplateError(Exception):
    """The template refuses these messages, or is broken."""


class _Generation(Extension):
    """`{% generation %}` marks answers for training; here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template; set up as transformers does it."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        """Compile a template.

        Args:
            source: the template's text.
            bos: text of the model's begin token, or empty.
            eos: text of the model's end token, or empty.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = TODAY.strftime
        self._names = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ChatTemplateError(str(error)) from error

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The prompt of (role, content) messages, open for the answer, without thinking."""
        try:
            text = self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                enable_thinking=False,
                tools=None,
                documents=None,
                **self._names,
            )
        except Exception as error:  # a template can raise whatever an expression can
            raise ChatTemplateError(str(error)) from error
        for opened, closing in OPENED:
            if text.rstrip().endswith(opened):
                return text.rstrip() + closing
        return text


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
