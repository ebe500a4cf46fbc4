"""What must be said is said: commands, tables, prompts, manifest keys, scorers, explainers."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer
from sqlite_utils import Database

import lite_interp
from lite_interp.cli import app
from lite_interp.explain import EXPLAINERS
from lite_interp.manifests import HubSource, Manifest, ModelFile, WheelPart, WheelSource
from lite_interp.migrations import TABLES, migrations
from lite_interp.prompts import load_prompt, prompt_files
from lite_interp.score import SCORERS

ROOT = Path(__file__).parent.parent


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def headings(path: str) -> set[str]:
    return set(re.findall(r"^##+ `?(.+?)`?$", text(path), re.MULTILINE))


def commands():
    """Every command with its full name: `score`, `models fetch`."""
    waiting = [("lite-interp", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        inner = getattr(command, "commands", {})
        waiting += [(f"{name} {word}", each) for word, each in inner.items()]


@pytest.mark.parametrize(("name", "command"), sorted(commands(), key=lambda pair: pair[0]))
def test_commands_have_help_and_stand_in_the_docs(name, command):
    assert command.help
    assert name in headings("docs/cli.md")


def test_tables_have_a_sentence_and_stand_in_the_docs():
    db = Database(memory=True)
    migrations.apply(db)
    # What a virtual table keeps its index in is no table of ours.
    found = db.execute("select name from pragma_table_list where type in ('table', 'virtual')")
    ours = {name for (name,) in found if not name.startswith(("_", "sqlite_"))}
    assert ours == set(TABLES)
    assert ours <= headings("docs/schema.md")
    assert all(sentence.endswith(".") for sentence in TABLES.values())


def test_prompts_and_their_variables_are_explained():
    docs = text("docs/prompts.md")
    for name in prompt_files():
        assert f"`{name}`" in docs
        for variable in load_prompt(name).variables:
            assert f"| `${variable}` |" in docs, f"{name}: say what ${variable} is"


def test_manifest_keys_are_explained():
    docs = text("models/README.md")
    places = {
        "": Manifest,
        "files.": ModelFile,
        "sources.": (HubSource, WheelSource),
        "sources.parts.": WheelPart,
    }
    for place, records in places.items():
        for record in records if isinstance(records, tuple) else (records,):
            for field in dataclasses.fields(record):
                key = place + field.name
                assert f"| `{key}` |" in docs or f"| `[[{key}]]` |" in docs, key


@pytest.mark.parametrize("name", sorted([*SCORERS, *EXPLAINERS]))
def test_scorers_and_explainers_have_a_section(name):
    assert name in headings("docs/methods.md")


def test_changelog_begins_with_this_version():
    first = re.search(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)
    assert first
    assert first.group(1) == lite_interp.__version__
