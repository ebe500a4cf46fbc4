"""Commands that look for latents: by words and meaning, and by what fires on a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lite_interp.cli import completing
from lite_interp.cli.look import print_csv
from lite_interp.cli.options import (
    AsCsv,
    AsJson,
    CacheId,
    CoderPlace,
    EmbedderModel,
    Results,
    SubjectPlace,
)
from lite_interp.cli.records import print_records
from lite_interp.errors import UsageError, nearest


def search(
    results: Results,
    text: Annotated[
        str,
        typer.Argument(help="Words; one with * at its end stands for many.", show_default=False),
    ],
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Find explanations that mean the same, too.")
    ] = False,
    embedder: EmbedderModel = "all-minilm-l6-v2",
    places: Annotated[
        str,
        typer.Option(
            "--in",
            help="Where to look for the words: explanations, windows or all.",
            autocompletion=completing.one_of("explanations", "windows", "all"),
        ),
    ] = "all",
    limit: Annotated[int, typer.Option(help="Latents at most; 0 = all.", min=0)] = 20,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    ids: Annotated[
        bool, typer.Option("--ids", help="Only the latents, one a line: for show, --latents.")
    ] = False,
    cache: CacheId = "",
) -> None:
    """Latents whose explanation, or windows they fire in, have these words.

    All the words, in any order, with any ending; nothing in the text has a special meaning but *
    at the end of a word. The first search, and one after rows were added, brings an index in the
    file up to date.
    """
    from lite_interp import search as searching
    from lite_interp.db.caches import the_cache
    from lite_interp.terminal import Screen, Terminal

    if places not in searching.PLACES:
        raise UsageError(f"no such place: {places}", nearest(places, searching.PLACES))
    searching.words_query(text)
    tell = Terminal()
    model = _open_embedder(embedder) if meaning else None
    sources = searching.PLACES[places]
    with searching.open_searched(results, sources, model, tell) as searched:
        found = the_cache(searched.db, cache)
        hits = searching.find(searched, found, searching.Request(text, places, model, limit))
    if ids:
        for hit in hits:
            typer.echo(hit.told.latent)
    elif as_json:
        print_records(searching.hit_rows(hits))
    elif as_csv:
        print_csv([_flat(row) for row in searching.hit_rows(hits)])
    elif hits:
        console = Screen()
        console.print(searching.hits_table(hits, console))
    else:
        tell.say("nothing found")


def _open_embedder(name: str):
    """The embedder; it takes seconds to load, and words are found without it."""
    from lite_interp.tools import find_embedder

    return find_embedder(name)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose lists are JSON, and whose texts no spreadsheet runs."""
    from lite_interp.outside.cells import safe_cell

    plain = {key: json.dumps(each) if isinstance(each, list) else each for key, each in row.items()}
    return {key: safe_cell(each) if isinstance(each, str) else each for key, each in plain.items()}


def fires(
    results: Results,
    text: Annotated[
        str, typer.Argument(help="Text, or - for what comes on stdin.", show_default=False)
    ],
    top: Annotated[int, typer.Option(help="Latents of each token.", min=1)] = 5,
    subject: SubjectPlace = "",
    coder: CoderPlace = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page to this file instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a page that is there.")] = False,
    as_json: AsJson = False,
    cache: CacheId = "",
) -> None:
    """Which latents fire on a text: its tokens with their latents, and latents with their tokens.

    The text is cut and read as the corpus of the cache was, with the same positions left out.
    """
    from lite_interp import text_firings
    from lite_interp.db.caches import the_cache
    from lite_interp.db.file import read_results
    from lite_interp.db.told import tell_latents
    from lite_interp.reopening import Places, reopen
    from lite_interp.report.page import refuse_output, write_text
    from lite_interp.terminal import Screen, Terminal

    if html is not None:
        refuse_output(html, results, force)
    words = text_firings.checked_text(_stdin() if text == "-" else text)
    with read_results(results) as db:
        named = the_cache(db, cache)
        made = reopen(db, named, Places(subject, coder), Terminal())
        found = text_firings.read_text(db, named, made, words)
        told = tell_latents(db, named, text_firings.shown_latents(found, top, every=as_json))
    if html is not None:
        write_text(html, [text_firings.html_page(named, found, told, top)])
    elif as_json:
        print_records(text_firings.firing_rows(found, told, top))
    else:
        console = Screen()
        console.print(text_firings.terminal_page(found, told, top))


def _stdin() -> str:
    """What comes on stdin, no more of it than tells that it is too long."""
    from lite_interp.text_firings import MOST_CHARACTERS

    data = sys.stdin.buffer.read(4 * MOST_CHARACTERS + 4)
    return data.decode("utf-8", "replace")
