"""Where and by whom a file was made, taken out of its texts: places, addresses, names.

A text that is a place as a whole keeps its last part, what a model is called. Where a place begins
inside a text, the text ends: nobody can say where a path with spaces does. Addresses and known
names are replaced one by one. Texts that hold none of these stay as they are, letter by letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

PLACE, ADDRESS, NAME = "(path)", "(address)", "(name)"
"""What stands where something was taken out."""

GENERIC = frozenset(
    {
        "root", "home", "user", "users", "admin", "ubuntu", "localhost", "model", "models", "layer",
        "layers", "coder", "coders", "data", "work", "workspace", "tmp", "engine", "engines",
        "study", "shared", "public", "guest", "test",
    }
)  # fmt: skip
"""Names of accounts and machines that say nothing, and are words of a results file."""

KEPT_KEYS = frozenset({"chat_template"})
"""Keys of JSON whose text is of the model's file, full of slashes that are no paths."""

PLACE_KEYS = frozenset({"path", "paths", "url"})
"""Keys of JSON whose text is a place, whatever it looks like."""

_WHOLE = re.compile(
    r"(?s)\s*(?:file:|~[^\s/\\]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[\\/]|[/\\](?=[^\s/\\])|\\\\|//).*"
)
_INSIDE = re.compile(
    r"(?<![\w.~/\\-])(?:file:/|\.{0,2}[/\\]+[^\s/\\<>][^/\\\n<>]*[/\\]"
    r"|~(?:[A-Za-z][\w.-]*)?[/\\]|[A-Za-z]:[\\/]|\\\\[^\s\\])"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]*")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HOME = re.compile(r"(?i)[/\\](?:home|users)[/\\]+([^/\\\"'\s]+)")
_HOST = re.compile(r"://(?:[^/@\s\"']*@)?(\[[0-9A-Fa-f:]+\]|[^/:\s\"'\\\]},]+)")


def names_in(text: str) -> set[str]:
    """Names of users and hosts that paths and addresses in a text give away."""
    return {*_HOME.findall(text), *_HOST.findall(text)}


def last_part(text: str) -> str:
    """The last part of a path; empty if it has none."""
    parts = [part for part in re.split(r"[/\\]+", text.strip()) if part.strip(". ~")]
    return parts[-1] if parts else ""


class Anonymizer:
    """Takes places, addresses and some names out of texts."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Know the names to take out; generic ones and single letters are left alone."""
        known = {name.strip() for name in names}
        known = {name for name in known if len(name) > 1 and name.lower() not in GENERIC}
        longest_first = sorted(known, key=lambda name: (-len(name), name))
        words = "|".join(map(re.escape, longest_first))
        self._names = re.compile(rf"(?i)(?<![^\W_])(?:{words})(?![^\W_])") if known else None
        self.text = lru_cache(maxsize=1 << 14)(self._text)

    def _text(self, text: str) -> str:
        """A text of the file: a name, a setting, a reason."""
        if _URL.fullmatch(text.strip()):
            return ADDRESS
        if _WHOLE.fullmatch(text):
            return self._without_names(last_part(text)) or PLACE
        text = _MAIL.sub(ADDRESS, _URL.sub(ADDRESS, text))
        if found := _INSIDE.search(text):
            text = text[: found.start()] + PLACE
        return self._without_names(text)

    def _without_names(self, text: str) -> str:
        return self._names.sub(NAME, text) if self._names else text

    def place(self, text: str) -> str:
        """A text that may be a path though nothing shows it, as `coder/layers.9`: its last part."""
        tidy = self.text(text)
        return last_part(tidy) if re.search(r"[/\\]", tidy) else tidy

    def json(self, text: str, places: bool = False) -> str:
        """JSON with every text in it so treated, keys too; what is no JSON is treated as a text.

        Args:
            text: the JSON; it stays as it is if nothing has to go.
            places: whether any text with a slash and no blank is a path.
        """
        try:
            found = json.loads(text)
            changed = self._walk(found, places)
        except (ValueError, RecursionError):
            return self.place(text) if places else self.text(text)
        return text if changed == found else _dumped(changed)

    def _walk(self, value: Any, places: bool, sure: bool = False) -> Any:
        if isinstance(value, str):
            is_place = sure or (places and not re.search(r"\s", value.strip()))
            return self.place(value) if is_place else self.text(value)
        if isinstance(value, dict):
            return {
                self.text(key): inner
                if key in KEPT_KEYS
                else self._walk(inner, places, key in PLACE_KEYS)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self._walk(each, places, sure) for each in value]
        return value


def _dumped(value: Any) -> str:
    """As `ids.canonical_json`; what is no Unicode, in another's file, is written as an escape."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value, sort_keys=True, separators=(",", ":"))
