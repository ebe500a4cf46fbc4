"""Pages of the command line on real terminals and in pipes, with texts from anywhere."""

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import unicodedata
from contextlib import closing

import numpy as np
import pytest
import tiny_report
from rich.cells import cell_len
from rich.table import Table
from test_cli import call
from tiny_score_rows import EVIL
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.cli.options import NOBODY_READS
from lite_interp.list_page import latents_table
from lite_interp.records import Window
from lite_interp.render import shortened, terminal_safe
from lite_interp.terminal import CellText, Screen
from lite_interp.view import window_text

SCRIPTS = {
    "chinese": ("解释", "今天", "天气", "，", "很好", "。"),
    "emoji": (" 👩", "\u200d🚀", " 🇩🇪", "🏳️\u200d🌈", " ❤️", "👍🏽"),
    "hebrew": (" שלום", " עולם", "!", " (", "אבג", ")"),
    "arabic": (" مرحبا", " بالعالم", " ١٢٣", "،", " نص", "؟"),
    "persian": (" می\u200cخواهم", " کتاب", " را", " از", " تو", "."),
    "combining": (" cafe\u0301", " Zalgo" + "\u0301" * 60, "\u0308", " e", "\u20dd", " x"),
    "escapes": (EVIL, "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "\x1b]52;c;aGk=\x07", "\x9b2J",
                "\x00", "\x7f"),
    "bidi overrides": ("\u202eabc\u202c", "\u2067x\u2069", "\u200f", "\u061c", "\u2066", "a"),
    "invisible": ("\u200b", "\ufeff", "\u3164", "\u2060", "\U000e0041", "\U000e0101"),
    "space": ("\t", "\n", "\r\n", " ", "\u00a0", "\u3000"),
    "half": ("\ud83d", "\ude00", "\ud800", "�", "", " a"),
    "markup": ("[bold]", ":smile:", "[/]", "[link=x]y[/link]", "<b>", "&amp;"),
    "long": ("x" * 1_000_000, " y" * 9000, "年" * 5000, " a", " b", " c"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(scope="module", params=SCRIPTS)
def file(request, tmp_path_factory):
    """A file whose tokens and explanations are of one kind."""
    tokens = SCRIPTS[request.param]
    path = tmp_path_factory.mktemp("pages") / "whole.db"
    whole = tuple(token.encode("utf-8", "replace").decode() for token in tokens)
    tiny_report.make_results(path, 3, ("".join(whole), "years"), whole)
    # A half of a pair is no text that SQLite takes, but JSON may say it.
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update windows set tokens = ?", [json.dumps(tokens)])
    return path


def without_styles(text: str) -> str:
    """What is sent to a terminal without colours, weights and fences around right-to-left text."""
    return re.sub("\x1b\\[[0-9;]*m|[\u2068\u2069]", "", text)


COMMANDS = {
    "show": ("show", "FILE", 0),
    "list": ("list", "FILE"),
    "compare": ("compare", "FILE", "llm", "token_list"),
    "arms": ("compare", "FILE"),
    "agree": ("agree", "FILE"),
    "info": ("info", "FILE"),
    "search": ("search", "FILE", "years"),
}


@pytest.mark.parametrize(
    ("width", "colour"), [(80, "pipe"), (80, "colour"), (120, "no colour"), (120, "colour")]
)
def test_no_page_is_wider_than_the_terminal_or_does_anything_to_it(
    file, width, colour, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    if colour != "pipe":
        monkeypatch.setenv("FORCE_COLOR", "1")
    if colour == "no colour":
        monkeypatch.setenv("NO_COLOR", "1")
    for arguments in COMMANDS.values():
        out, _ = call(*(file if each == "FILE" else each for each in arguments))
        assert len(out) < 60_000
        if colour == "pipe":
            assert "\x1b" not in out and "\u2068" not in out
        for line in without_styles(out).split("\n"):
            assert cell_len(line) <= width
            assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in line)


def test_pages_with_any_text_may_be_printed_as_records(file):
    for arguments in COMMANDS.values():
        out, _ = call(*(file if each == "FILE" else each for each in arguments), "--json")
        for line in out.splitlines():
            assert line.isprintable()
            json.loads(line)


# Right to left


def row_on(text, is_terminal, width=40):
    """A row with numbers on both sides of a text."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_row("12", CellText(text), ".83")
    screen = Screen()
    screen.file, screen._force_terminal, screen._width = io.StringIO(), is_terminal, width
    screen._color_system = None
    screen.print(table)
    return screen.file.getvalue().rstrip("\n").split("\n")


def test_right_to_left_text_is_fenced_on_each_line_of_its_cell():
    words = "שלום עולם טוב מאוד לכל מי שקורא את זה כאן ועכשיו"
    lines = row_on(words, True)
    assert len(lines) > 1
    for line in lines:
        before, fenced, after = re.fullmatch("(.*)\u2068(.*)\u2069(.*)", line).groups()
        assert not re.search("[\u0590-\u05ff]", before + after)
        assert re.search("[\u0590-\u05ff]", fenced)
        assert cell_len(line) <= 40
    assert lines[0].startswith("12 ") and lines[0].rstrip().endswith(".83")
    assert [line.replace("\u2068", "").replace("\u2069", "") for line in lines] == row_on(
        words, False
    )


def test_left_to_right_text_has_no_fence():
    assert "\u2068" not in "".join(row_on("years of 年 and more, longer than the line is", True))
    # A line of a text may have none, if it has no such letters.
    lines = row_on("an english beginning that takes a line of its own שלום", True)
    assert ["\u2068" in line for line in lines] == [False, True]


# Windows


def window(tokens, values):
    return Window("b2:w", 0, 0, 0, tuple(tokens), np.array(values, np.float32))


def plain_screen():
    screen = Screen()
    screen.file = io.StringIO()
    return screen


def test_a_mark_inside_a_word_says_where_it_begins():
    shown = window(["un", "like", "ly", " so", "年", "月", "x"], [0, 0.9, 0.35, 0, 0.5, 0, 0.05])
    assert window_text(shown, 1.0, plain_screen()).plain == "un[like⁹]ly⁴ so[年⁵]月[x¹]"


def test_spaces_and_nothing_that_fire_can_be_seen(monkeypatch):
    shown = window([" a", "  ", "", "\n", " b"], [0, 0.5, 0.5, 0.5, 0])
    assert window_text(shown, 1.0, plain_screen()).plain == " a␣␣⁵∅⁵↵⁵ b"
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = window_text(shown, 1.0, Screen())
    assert coloured.plain == " a␣␣∅↵ b"
    assert [coloured.plain[span.start : span.end] for span in coloured.spans] == ["␣␣", "∅", "↵"]


def test_long_texts_are_cut_and_say_so():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcde" * 300, 4) == "abcd… (+1,496 characters)"
    shown = window(["x" * 1_000_000], [1.0])
    assert window_text(shown, 1.0, plain_screen()).plain.endswith("x… (+999,800 characters)⁹")


def test_what_cannot_be_seen_is_a_dot():
    assert terminal_safe("a\u3164b\ufe0ec\U000e0101d\u034f") == "a·b·c·d·"
    assert terminal_safe("❤️ 年 🇩🇪 हिन्दी ภาษาไทย") == "❤️ 年 🇩🇪 हिन्दी ภาษาไทย"
    assert terminal_safe("e" + "\u0301" * 6) == "e" + "\u0301" * 4 + "··"


def test_names_of_emoji_are_text():
    screen = plain_screen()
    screen.print(":smile: [bold]b[/]")
    assert screen.file.getvalue() == ":smile: [bold]b[/]\n"


# The table of `list`


def table_row(n_ways):
    names = ["detection", *(f"intervention@direction=random,kl={n}" for n in range(n_ways))]
    scores = {}
    for name in names:
        scores |= {name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6, f"{name}_null": 0.5}
        scores |= {f"{name}_difference_low": 0.1, f"{name}_reason": None}
    head = {"latent": 7, "density": 0.01, "explanation": "years", "failure": None, "arm": "llm"}
    return {**head, **scores, "diagnosis": "bad explanation", "tokens": 10, "seconds": 1.0}


def table_lines(n_ways, width):
    screen = plain_screen()
    screen._width = width
    screen.print(latents_table([table_row(n_ways)], width))
    return screen.file.getvalue().splitlines()


def test_long_names_of_ways_stand_below_the_table():
    lines = table_lines(3, 80)
    assert [line.split() for line in lines[:2]] == [
        ["int", "int", "int"],
        ["latent", "density", "explanation", "det", "null", "(1)", "(2)", "(3)", "diagnosis",
         "tokens", "s"],
    ]  # fmt: skip
    assert lines[-3].strip() == "(1) int, direction=random, kl=0"
    assert max(map(cell_len, lines)) <= 80


def test_ways_without_room_are_left_out_and_named():
    lines = table_lines(30, 80)
    text = " ".join(" ".join(lines).split())
    assert "diagnosis" in lines[1] and "explanation" in lines[1] and "det" in lines[1]
    assert "no room here, but in --json and --csv: intervention@direction=random" in text
    assert max(map(cell_len, lines)) <= 80
    assert "no room" not in " ".join(table_lines(3, 80))


def test_many_scorers_of_one_way_fit_too():
    row = table_row(0)
    for name in (f"scorer{n}" for n in range(40)):
        row |= {name: 0.5, f"{name}_difference_low": 0.1}
    screen = plain_screen()
    screen._width = 80
    screen.print(latents_table([row], 80))
    out = screen.file.getvalue()
    assert max(map(cell_len, out.splitlines())) <= 80
    assert "diagnosis" in out and "detection" not in out.split("no room")[1]


# Streams


def program(*arguments, read=None, **environment):
    """The command line as a program; `read` takes so many lines of stdout and goes away."""
    command = [sys.executable, "-m", "lite_interp", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "80", **environment}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    if read is None:
        out, err = run.communicate()
    else:
        out = b"".join(run.stdout.readline() for _ in range(read))
        run.stdout.close()
        err = run.stderr.read()
        run.wait()
        run.stderr.close()
    return run.returncode, out, err


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A file whose list does not fit into the buffer of a pipe."""
    path = tmp_path_factory.mktemp("many") / "whole.db"
    return tiny_report.make_results(path, 120, ("years – " + "年" * 3000,))


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_nobody_reads_is_no_error(many, form, unbuffered):
    found = program("list", many, *form, read=1, PYTHONUNBUFFERED=unbuffered)
    # Without a buffer the last piece may go nowhere, and nobody is told.
    assert found[0] == NOBODY_READS or (unbuffered and found[0] == 0)
    assert found[2] == b""
    assert found[1].count(b"\n") == 1


def test_a_broken_pipe_of_something_else_is_a_bug(monkeypatch, many):
    def broken(*_):
        raise BrokenPipeError("a server went away")

    monkeypatch.setattr("lite_interp.overview.latent_rows", broken)
    monkeypatch.setattr("lite_interp.cli.options._is_closed", lambda stream: False)
    result = CliRunner().invoke(app, ["list", str(many)])
    assert result.exit_code not in (0, NOBODY_READS)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("command", [("list",), ("show", 0), ("info",), ("list", "--json")])
def test_a_terminal_without_unicode_gets_other_characters(many, encoding, command):
    name, *rest = command
    code, out, err = program(name, many, *rest, PYTHONIOENCODING=encoding)
    assert (code, err) == (0, b"")
    text = out.decode(encoding)
    if "--json" in rest:
        rows = [json.loads(line) for line in text.splitlines()]
        assert rows[0]["explanation"].startswith("years – 年")
        return
    assert max(map(len, text.splitlines())) <= 80
    if name == "show":
        assert re.search(r"\[9\]", text)
        assert re.search(r"strength 0 [ 1-8]{20} max", text)


def test_help_and_errors_can_be_written_anywhere(tmp_path):
    code, out, _ = program("--help", PYTHONIOENCODING="ascii")
    assert code == 0 and b"Usage: lite-interp" in out
    code, _, err = program("list", tmp_path / "年.db", PYTHONIOENCODING="ascii")
    assert code == 4 and err.startswith(b"Error: no such results file")
