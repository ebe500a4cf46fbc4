"""`compare`: the list of arms, the page at 80 and 120 columns, JSON, one line for each mistake."""

import io
import json
import unicodedata
from dataclasses import replace

import pytest
import tiny_results
from rich.cells import cell_len
from rich.console import Console
from sqlite_utils import Database
from tiny_arms import examples_of, explain, judge, two_arms
from tiny_results import EMBEDDER
from tiny_score_rows import EVIL
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.compare.arms import find_arm, load_arms
from lite_interp.compare.comparing import compare
from lite_interp.compare.judged import Judged
from lite_interp.compare.page import (
    arms_page,
    comparison_page,
    comparison_rows,
    number,
    verdict,
)
from lite_interp.db.file import open_results

BEST = [3.0, 2.0, 1.0, 0.0, 0.0, 0.0]
FAIR = [3.0, 2.0, 0.5, 0.0, 1.0, 1.0]
POOR = [0.0, 2.0, 0.5, 3.0, 1.0, 1.0]


def fill(db):
    """Six latents of two arms, one more that B has no explanation of, by two scorers."""
    first = {1: BEST, 2: BEST, 3: FAIR, 4: BEST, 5: FAIR, 6: BEST}
    second = {1: FAIR, 2: POOR, 3: POOR, 4: FAIR, 5: POOR, 6: [1.0, None, 0.0, 0.0, 0.0, 2.0]}
    two_arms(db, first, second)
    judge(db, explain(db, examples_of(7), "a"), examples_of(7), BEST)
    explain(db, examples_of(7), "b", explainer="token_list", text=None, failure="no_windows")
    for arm, values in (("a", BEST), ("b", FAIR)):
        for latent in (1, 2):
            examples = examples_of(latent)
            own = tiny_results.make_explanation(examples, arm)
            more = {"scorer": "embedding", "model_id": EMBEDDER}
            judge(db, own, examples, values, "embedder", **more)


@pytest.fixture()
def results(tmp_path):
    path = tmp_path / "results.db"
    memory = tiny_results.memory()
    fill(memory)
    with open_results(path, create=True):
        pass
    disk = Database(str(path))
    for table in ("subjects", "coders", "corpora", "caches", "engines", "embedders", "prompts",
                  "windows", "example_sets", "example_set_windows", "explanations", "trials",
                  "verdicts"):  # fmt: skip
        disk.table(table).insert_all(memory.table(table).rows)
    disk.close()
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout if not code else result.stderr


def page(db, *names, width=80, top=5, **options):
    arms = load_arms(db)
    both = find_arm(arms, names[0]), find_arm(arms, names[1])
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(comparison_page(compare(Judged(db), *both, **options), both, top))
    return console.file.getvalue()


def test_without_arms_they_are_listed(results):
    lines = [line.split() for line in call(results).splitlines()]
    assert lines == [
        ["arm", "latents", "failed", "judged", "by"],
        ["llm", "7", "0", "detection,", "embedding"],
        ["token_list", "7", "1", "detection,", "embedding"],
    ]
    rows = [json.loads(line) for line in call(results, "--json").splitlines()]
    assert [(row["kind"], row["name"], row["n_failed"]) for row in rows] == [
        ("arm", "llm", 0),
        ("arm", "token_list", 1),
    ]
    assert rows[0]["judges"][1] == {"scorer": "embedding", "model": "m"}


def test_two_arms_are_told_in_words_numbers_strata_and_latents(results):
    text = call(results, "llm", "token_list", "--top", 1)
    assert "A: llm (7 latents)\nB: token_list (7 latents, 1 without explanation)\n" in text
    assert "paired: the same items of the same latents" in text
    assert "detection (raw): told apart: A above B by ." in text
    assert "embedding (raw): not told apart: the same difference in all 2 latents" in text
    assert "latents left out: 1 × no explanation in B: no_windows" in text
    assert "1 of 36 items left out: not judged by both, or failed" in text
    assert "detection (relative): no comparison: fewer than two latents with a number" in text
    assert "decile 0" in text and "llm says 2" in text
    assert "llm says 1" not in text
    swapped = call(results, "token_list", "llm", "--scorer", "detection")
    assert "told apart: B above A by ." in swapped


def test_json_has_a_line_for_each_comparison_and_latent(results):
    text = call(results, "llm", "token_list", "--json", "--variant", "raw")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["kind"], row["scorer"]) for row in rows].count(("comparison", "detection")) == 1
    latents = [row for row in rows if (row["kind"], row["scorer"]) == ("latent", "detection")]
    assert [row["latent"] for row in latents] == [1, 2, 3, 4, 5, 6, 7]
    assert latents[-1]["reason"] == "no explanation in B: no_windows"
    assert latents[-1]["first"] is None
    assert latents[0]["second_explanation"] == "token_list says 1"
    head = rows[0]
    assert head["difference_low"] < head["difference"] < head["difference_high"]
    assert {row["stratum"] for row in head["strata"]} >= {"decile_0", "random"}
    assert (head["n_items_left_out"], head["pairing"]) == (1, "items")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("llm",), "there is only one arm to compare", "name two"),
        (("llm", "tokenlist"), "no arm fits: tokenlist", "token_list"),
        (("llm", "llm,judge=x"), "nobody of this name judged it: judge=x", "there is: e, m"),
        (("llm", "token_list", "--scorer", "fuzzing"), "no such scorer judged both", "detection"),
        (("llm", "token_list", "--variant", "row"), "no such variant: row", "raw, relative"),
        (("llm", "colour=red"), "arms have no such property: colour", "did you mean `coder`"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(results, arguments, message, hint):
    text = call(results, *arguments, code=2)
    assert text.startswith(f"Error: {message}")
    assert hint in text.split("hint: ")[1]
    assert len(text.strip().splitlines()) == 3


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits(width):
    db = tiny_results.memory()
    fill(db)
    for line in page(db, "llm", "token_list", width=width).splitlines():
        assert cell_len(line) <= width
    assert max(map(cell_len, page(db, "llm", "token_list", width=width).splitlines())) > 60


def test_hostile_texts_do_nothing():
    db = tiny_results.memory()
    for name, explainer, values in (("a", EVIL, BEST), ("b", f"{EVIL}2", FAIR)):
        for latent in (1, 2):
            examples = examples_of(latent)
            scored = [p._replace(stratum=EVIL) for p in examples.scored]
            examples = replace(examples, scored=tuple(scored))
            own = explain(db, examples, name, explainer=explainer, text=EVIL)
            judge(db, own, examples, values)
        explain(db, examples_of(3), name, explainer=explainer, text=None, failure=EVIL)
    arms = load_arms(db)
    found = compare(Judged(db), arms[0], arms[1])
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    console.print(arms_page(arms))
    console.print(comparison_page(found, (arms[0], arms[1]), 5))
    text = console.file.getvalue()
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"}
    assert not bad
    assert "[bold red]b[/]" in text
    for row in comparison_rows(found, (arms[0], arms[1])):
        plain = json.loads(json.dumps(row))
        assert "\x1b" not in json.dumps(plain, ensure_ascii=False)


def test_nothing_in_common_is_said():
    db = tiny_results.memory()
    assert "no explanations yet" in text_of(arms_page(load_arms(db)))
    two_arms(db, {1: BEST}, {})
    explain(db, examples_of(1), "b", explainer="token_list")
    text = page(db, "llm", "token_list")
    assert "nothing to compare: no way to score has judged both" in text


def text_of(renderable):
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    console.print(renderable)
    return console.file.getvalue()


def test_what_is_not_told_apart_says_what_would_have_been():
    db = tiny_results.memory()
    two_arms(db, {1: BEST, 2: FAIR, 3: BEST}, {1: FAIR, 2: BEST, 3: BEST})
    arms = load_arms(db)
    raw = compare(Judged(db), *arms)[0]
    assert verdict(raw) == (
        "detection (raw): not told apart; a difference of "
        f"{number(raw.means.visible)} would have been seen (80%)"
    )
    two_arms(wide := tiny_results.memory(), {1: BEST, 2: POOR}, {1: POOR, 2: BEST})
    raw = compare(Judged(wide), *load_arms(wide))[0]
    assert verdict(raw).endswith("so few latents could have shown no difference")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0321, ".032"), (-0.5, "-.500"), (0, "0"), (-0.0001, "0"), (1, "1.000"), (-2.5, "-2.500")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
    assert number(float("nan")) == "–"
