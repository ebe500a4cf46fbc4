"""All explanations at a glance: every score has its column, nothing is dropped, the table fits."""

import io
import json
import math
import unicodedata

import pytest
import tiny_results
from rich.cells import cell_len
from rich.console import Console
from tiny_results import CACHE, make_examples, store_latent
from tiny_score_rows import (
    AREA,
    EVIL,
    all_rows,
    intervention_row,
    intruder_row,
    nothing_row,
    score_row,
    simulation_row,
)
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.db import caches
from lite_interp.db.file import add, open_results
from lite_interp.demo import print_results
from lite_interp.list_page import latents_table
from lite_interp.oracle_rules import KINDS
from lite_interp.overview import (
    diagnosis,
    finds_intruders,
    latent_rows,
    score_columns,
    summary_lines,
)
from lite_interp.score_lines import drafts_lines
from lite_interp.ways import Way, base, header, in_order, way_names, way_of


def printed(renderable, width=80, **options):
    """What a terminal of some width is sent."""
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        markup=False,
        legacy_windows=False,
        **options,
    )
    console.print(renderable)
    return console.file.getvalue()


def harmless(text: str) -> bool:
    return not any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\n"
        for character in text
    )


def row(scores=None, **changed):
    """A row of the table, from scores made by hand."""
    scores = [score_row(), score_row(scorer="embedding", value=0.06)] if scores is None else scores
    values = {
        "latent": 131071,
        "density": 0.123456,
        "explainer": "token_list",
        "explanation": "names of years and of other dates, often in parentheses after a name",
        "failure": None,
        **score_columns(scores, way_names(scores), "raw"),
        "diagnosis": diagnosis(scores),
        "tokens": 123456,
        "seconds": 1234.5,
    }
    return {**values, "arm": changed.get("explainer", "token_list"), **changed}


# Names of ways


def test_one_way_has_the_name_of_its_scorer():
    assert list(way_names([score_row(), score_row(6)]).values()) == ["detection"]


def test_other_ways_are_named_by_what_differs_from_the_first():
    rows = [
        intervention_row(settings=json.dumps({"ablate": ablate, "kl": kl, "n": 10}))
        for ablate, kl in ((False, 1.0), (False, 0.1), (True, 0.1))
    ]
    names = way_names(rows)
    assert [names[way_of(row)] for row in rows] == [
        "intervention@kl=1",
        "intervention",
        "intervention@ablate=true",
    ]


def test_a_prompt_is_told_by_the_beginning_of_its_id():
    rows = [
        score_row(settings='{"prompt":"b2:aaaaaaaaaaaa","until_sure":0.25}'),
        score_row(settings='{"prompt":"b2:0123456789abcdef","until_sure":0.5}'),
    ]
    names = way_names(rows)
    # In the order of the settings as text.
    assert [names[way_of(row)] for row in rows] == [
        "detection@prompt=aaaaaaaa,until_sure=0.25",
        "detection",
    ]


def test_ways_that_differ_in_their_model_alone():
    rows = [score_row(), score_row(model_id="b2:ffffffffffffffff")]
    assert sorted(way_names(rows).values()) == ["detection", "detection@model=ffffffff"]


def test_a_setting_that_another_way_lacks_is_none():
    rows = [
        score_row(settings='{"a":1}', model_id="b"),
        score_row(settings='{"b":1,"c":2}', model_id="b"),
        score_row(settings="[", model_id="b"),
    ]
    # The plainest has no settings at all, or none that can be read.
    assert list(way_names(rows).values()) == [
        "detection", "detection@a=1", "detection@b=1,c=2",
    ]  # fmt: skip
    assert list(way_names(rows[:2]).values()) == ["detection", "detection@a=none,b=1,c=2"]


def test_names_in_the_order_of_columns():
    names = ["zzz", "intruder", "detection@kl=1", "fuzzing", "detection"]
    assert in_order(names) == ["detection", "detection@kl=1", "fuzzing", "intruder", "zzz"]
    assert base("detection@kl=1") == "detection"
    assert header("intervention@ablate=true,kl=1") == "int\nablate=true\nkl=1"
    assert header("unknown_scorer") == "unkno"


def test_names_hold_no_control_characters():
    rows = [score_row(scorer=EVIL), score_row(scorer=EVIL, settings=json.dumps({EVIL: EVIL}))]
    for name in way_names(rows).values():
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


# Columns


def test_every_number_of_a_score_has_its_column():
    columns = score_columns([score_row()], way_names([score_row()]), "raw")
    assert columns == {
        "detection": 0.83,
        "detection_low": 0.72,
        "detection_high": 0.91,
        "detection_null": 0.51,
        "detection_difference": 0.32,
        "detection_difference_low": 0.2,
        "detection_q": 0.003,
        "detection_n": 78,
        "detection_n_failed": 2,
        "detection_reason": None,
        "detection_tokens": 1200,
        "detection_seconds": 2.5,
        "detection_balanced_accuracy": 0.74,
        "detection_f1": 0.12,
        "detection_average_precision": 0.2,
    }


def test_only_areas_have_rates_and_only_where_they_are_known():
    scores = [simulation_row(metrics=AREA), score_row(metrics={}), intruder_row()]
    columns = score_columns(scores, way_names(scores), "raw")
    assert not [name for name in columns if name.endswith("_f1")]
    assert columns["simulation"] == 0.41
    assert columns["intruder_null"] == 0.2
    unknown = score_row(metrics={"f1": [None, None, None]})
    assert score_columns([unknown], way_names([unknown]), "raw")["detection_f1"] is None


def test_a_scorer_without_the_variant_has_none_of_another():
    scores = [
        score_row(),
        score_row(variant="relative", value=0.9),
        intruder_row(),
    ]
    columns = score_columns(scores, way_names(scores), "relative")
    assert columns["detection"] == 0.9
    assert columns["intruder"] is None
    assert columns["intruder_n"] is None
    assert "intruder_low" in columns


def test_each_way_has_its_columns():
    scores = [intervention_row(settings='{"kl":0.1}', value=0.2), intervention_row(value=0.7)]
    columns = score_columns(scores, way_names(scores), "raw")
    assert columns["intervention"] == 0.2
    assert columns["intervention@kl=1"] == 0.7
    assert columns["intervention@kl=1_low"] == 0.3


# Diagnosis


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ([score_row()], "good"),
        ([score_row(), intruder_row(value=0.1)], "good"),
        ([score_row(difference_low=0.0)], "unsure"),
        ([score_row(difference_low=-0.1), intruder_row(value=0.6)], "bad explanation"),
        ([score_row(difference_low=-0.1), intruder_row(value=0.1)], "bad latent"),
        # At the edges nothing is certain.
        ([score_row(difference_low=-0.1), intruder_row(low=0.2, high=0.49)], "bad latent"),
        ([score_row(difference_low=-0.1), intruder_row(low=0.2, high=0.5)], "unsure"),
        ([score_row(difference_low=-0.1), intruder_row(low=0.21, high=0.5)], "bad explanation"),
        ([score_row(scorer="fuzzing")], "good"),
        ([nothing_row(), score_row(scorer="fuzzing")], "good"),
        # Detection goes before fuzzing, whichever is better.
        ([score_row(difference_low=-0.1), score_row(scorer="fuzzing")], "unsure"),
        ([score_row(scorer="embedding")], "unsure"),
        ([nothing_row(), intruder_row(value=0.9)], "bad explanation"),
        ([nothing_row(), nothing_row(scorer="intruder")], "unsure"),
        ([], "unsure"),
        # Raw scores decide.
        ([score_row(variant="relative"), score_row(difference_low=-0.1)], "unsure"),
        # The first way decides.
        ([score_row(settings="b"), score_row(settings="a", difference_low=-0.1)], "unsure"),
    ],
)  # fmt: skip
def test_a_diagnosis_says_where_the_fault_lies(scores, found):
    assert diagnosis(scores) == found
    assert diagnosis(scores[::-1]) == found


def test_an_engine_that_finds_no_intruder_anywhere_calls_no_latent_bad():
    poor = [score_row(difference_low=-0.1), intruder_row(value=0.1)]
    assert diagnosis(poor, able=False) == "unsure"
    # 2 of 10 each: chance. 1 of 10 beside four times 9 of 10: it does find them elsewhere.
    assert not finds_intruders([intruder_row(value=0.2)] * 4)
    assert finds_intruders([intruder_row(value=0.1), *[intruder_row(value=0.9)] * 4])
    assert not finds_intruders([score_row(), nothing_row(scorer="intruder")])
    assert not finds_intruders([])


# Rows of a file


@pytest.fixture
def db():
    """Latents 0 to 2 with a score each, and one that was made by rule."""
    db = tiny_results.memory()
    db.execute("pragma foreign_keys = off")
    for latent in range(4):
        add_latent(db, latent)
    return db


def add_latent(db, latent):
    counts = {"n_firings": 10, "n_contexts": 5, "density": 0.01 * latent}
    values = {"max_value": 3.0, "mean_value": 1.0, "histogram": [1] * 20}
    add(db, "latents", {"cache_id": CACHE, "latent": latent, **counts, **values})


def store(db, *scores):
    """Put rows into the table of scores."""
    known = {column.name for column in db["scores"].columns}
    for score in scores:
        columns = {name: value for name, value in score.items() if name in known}
        columns["metrics"] = json.dumps(columns["metrics"])
        marks = ", ".join(f":{name}" for name in columns)
        db.execute(f"insert into scores ({', '.join(columns)}) values ({marks})", columns)


def rows_of(db, variant="raw"):
    return latent_rows(db, caches.load_caches(db)[0], variant)


def add_scores(db, examples, explanation, *scores):
    own = {"example_set_id": examples.id, "latent": examples.latent}
    store(
        db,
        *(
            {**score, **own, "explanation_id": score["explanation_id"] and explanation.id}
            for score in scores
        ),
    )


def test_a_row_for_each_explanation_with_the_scores_of_its_latent(db):
    examples = make_examples(1)
    llm = store_latent(db, examples)
    tokens = store_latent(db, examples, name="y", explainer="token_list")
    add_scores(db, examples, llm, score_row(1), intruder_row(1))
    add_scores(db, examples, tokens, score_row(1, value=0.6, difference_low=-0.1))
    first, second = sorted(rows_of(db), key=lambda row: row["explainer"])
    assert (first["detection"], first["intruder"]) == (0.83, 0.6)
    assert (second["detection"], second["intruder"]) == (0.6, 0.6)
    assert (first["diagnosis"], second["diagnosis"]) == ("good", "bad explanation")
    assert first["density"] == 0.01
    assert list(first)[:5] == ["latent", "density", "explainer", "explanation", "failure"]
    assert list(first)[-3:] == ["diagnosis", "tokens", "seconds"]
    # Explaining cost 110 tokens each.
    assert first["tokens"] == 220


def test_latents_without_a_text_or_too_few_windows_are_rows_with_the_reason(db):
    failed, few = make_examples(0), make_examples(2)
    store_latent(db, failed, text=None, failure="no_windows")
    explained = store_latent(db, few)
    add_scores(db, few, explained, nothing_row(2))
    first, second = rows_of(db)
    assert (first["latent"], first["failure"], first["diagnosis"]) == (0, "no_windows", "unsure")
    assert second["detection"] is None
    assert second["detection_reason"] == "too few windows"
    out = printed(latents_table([first, second], 120), 120)
    assert "(none: no_windows)" in out
    assert "(det: too few windows)" in out


def test_a_latent_that_was_judged_before_it_was_explained_is_a_row(db):
    examples = make_examples(3)
    explained = store_latent(db, examples)
    add_scores(db, examples, explained, intruder_row(3))
    db.execute("delete from explanations")
    (found,) = rows_of(db)
    assert (found["latent"], found["failure"]) == (3, "not explained yet")
    assert found["intruder"] == 0.6
    assert "(none: not explained yet)" in printed(latents_table([found], 120), 120)


def test_latents_made_by_rule_are_no_rows(db):
    made, real = make_examples(-1), make_examples(1)
    oracle = store_latent(db, made, explainer="oracle")
    explained = store_latent(db, real)
    add_scores(db, made, oracle, score_row(-1, scorer="fuzzing"), intruder_row(-1))
    add_scores(db, real, explained, score_row(1))
    (found,) = rows_of(db)
    assert found["latent"] == 1
    assert "fuzzing" not in found


def test_a_scorer_named_like_a_column_does_no_harm(db):
    examples = make_examples(1)
    explained = store_latent(db, examples)
    add_scores(
        db, examples, explained, *(score_row(1, scorer=n) for n in ("latent", "tokens", EVIL))
    )
    (found,) = rows_of(db)
    assert (found["latent"], found["tokens"]) == (1, 110)
    out = printed(latents_table([found], 80))
    assert harmless(out)
    for name in found:
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


# The table

FULL = row(all_rows())
TABLES = {
    "few scorers": [row()],
    "all scorers": [FULL, row(all_rows(), latent=3)],
    "ways": [row([*all_rows(), intervention_row(settings='{"kl":0.1}')])],
    "long words": [row(explanation="x" * 399)],
    "wide letters": [row(all_rows(), explanation="年" * 200)],
    "no scores": [row([])],
    "a failure": [row([], explanation=None, failure="engine: " + "code -3 " * 30)],
    "reasons": [row([nothing_row(reason="too few " * 20), *all_rows()[1:]])],
    "evil": [
        row(
            [score_row(scorer=EVIL, settings=json.dumps({EVIL: EVIL})), nothing_row(reason=EVIL)],
            explanation=EVIL * 4,
            explainer=EVIL,
        )
    ],
    "other explainer": [row(), row(explainer="llm")],
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_the_table_fits_the_terminal(name, width):
    out = printed(latents_table([*TABLES[name], row(explainer="llm")], width), width)
    assert max(map(cell_len, out.splitlines())) <= width
    assert harmless(out)
    assert "131071" in out
    assert "detection" not in out.splitlines()[0]


def test_a_narrow_table_leaves_out_what_matters_least():
    wide = printed(latents_table([FULL], 120), 120).splitlines()
    assert wide[0].split() == [
        "latent", "density", "explanation", "det", "null", "fuzz", "surp", "emb", "int", "sim",
        "intr", "diagnosis", "tokens", "s",
    ]  # fmt: skip
    assert ".83 .72–.91" in wide[1]
    narrow = printed(latents_table([FULL], 80), 80).splitlines()
    assert narrow[0].split() == [
        "latent", "explanation", "det", "null", "fuzz", "surp", "emb", "int", "sim", "intr",
        "diagnosis",
    ]  # fmt: skip
    assert ".72" not in narrow[1]
    few = printed(latents_table([row()], 80), 80).splitlines()[0].split()
    assert {"density", "tokens", "s"} <= set(few)


def test_numbers_are_written_short():
    scores = [
        score_row(value=0.8349, low=0.51, high=1.0, null_value=0.5),
        score_row(scorer="embedding", value=0.06),
        intervention_row(value=-0.124),
        simulation_row(value=12.4),
    ]
    out = printed(latents_table([row(scores)], 120), 120)
    assert ".83 .51–1.0" in out
    assert "12.35%" in out
    assert " .06 " in out
    assert " -.12 " in out
    assert " 12 " in out
    assert "123.5k" in out
    none = row([nothing_row(reason=None), score_row(scorer="embedding", value=math.nan)])
    assert printed(latents_table([none], 120), 120).count("–") == 3


def test_a_diagnosis_has_a_colour_where_there_are_colours():
    table = latents_table([row()], 80)
    assert "\x1b[32mgood" in printed(table, force_terminal=True, color_system="truecolor")
    plain = printed(table, force_terminal=True, color_system="truecolor", no_color=True)
    assert "good" in plain
    assert "\x1b[32m" not in plain


def test_markup_in_a_text_is_text():
    out = printed(
        latents_table([row(explanation="[bold]a[/bold] [red]b")], 120), 120, force_terminal=True
    )
    assert "[bold]a[/bold] [red]b" in out


def test_explainers_are_named_only_where_there_are_several():
    assert "token_list" not in printed(latents_table([row()], 120), 120)
    several = latents_table([row(), row(explainer="llm")], 120)
    assert "token_list: names" in printed(several, 120)


# Means


def scores_of(latents, **changed):
    return [score_row(latent, number=latent, **changed) for latent in latents]


def test_a_summary_says_when_nothing_is_told_apart_from_the_null():
    rows = scores_of([1]) + scores_of([2], difference=0.34, q_value=0.2)
    (good,) = summary_lines(rows)
    assert good == (
        "llm, detection (raw): mean AUROC 0.830 over 2 latents, null 0.510, "
        "difference +0.330 [+0.203, +0.457]; 1 certain (q < .05); 1,200 tokens, 2.5 s a latent"
    )
    (bad,) = summary_lines(scores_of([1], difference=-0.3) + scores_of([2]))
    assert ": not told apart from its null, so it says nothing; 2 certain" in bad


def test_a_summary_of_one_latent_has_no_interval_and_says_so():
    (line,) = summary_lines(scores_of([1]))
    assert "nan" not in line
    assert "over 1 latent, null 0.510, difference +0.320 (one latent: no interval); " in line


def test_a_summary_without_null_claims_nothing():
    none = {"null_value": None, "difference": None, "q_value": None}
    (line,) = summary_lines(scores_of([1, 2], **none))
    assert line == (
        "llm, detection (raw): mean AUROC 0.830 over 2 latents; 1,200 tokens, 2.5 s a latent"
    )


def test_every_statistic_has_its_name():
    rows = [score for latent in (1, 2) for score in all_rows(latent)]
    rows += [intervention_row(latent, variant="per_token") for latent in (1, 2)]
    found = {line.split(" (")[0].split(", ")[1]: line for line in summary_lines(rows)}
    assert "(raw): mean Pearson r 0.410 over 2" in found["simulation"]
    assert "(per_token): mean gain +0.520 nats a token over 2" in found["intervention"]
    assert "latents, intruder (raw): share of intruders found 0.600 over 2" in found["intruder"]
    assert ", chance 0.200, " in found["intruder"]
    assert "mean AUROC 0.830" in found["fuzzing"]
    assert any("mean gain +0.520 nats over" in line for line in summary_lines(rows))


def test_latents_without_a_number_are_not_counted_as_such():
    (line,) = summary_lines([*scores_of([1, 2]), nothing_row(3)])
    assert "over 2 latents" in line
    (none,) = summary_lines([nothing_row(3)])
    assert none == "llm, detection (raw): mean AUROC: no latent has one"


def test_what_stopping_saved_is_said():
    rows = scores_of([1, 2], metrics={"share_saved": 0.25}) + scores_of([3], metrics={})
    rows[0] = {**rows[0], "metrics": {"share_saved": 0.75}}
    (line,) = summary_lines(rows)
    assert line.endswith("; 50% of the items saved")


def test_means_are_over_one_way_and_never_over_latents_made_by_rule():
    rows = scores_of([1, 2]) + scores_of([1], settings='{"list":true}') + scores_of([-1, -2])
    lines = summary_lines(rows)
    assert [line.split(" (")[0] for line in lines] == [
        "llm, detection",
        "llm, detection@list=true",
    ]
    assert "over 2 latents" in lines[0]
    assert all(
        harmless(line) for line in summary_lines(scores_of([1], explainer=EVIL, scorer=EVIL))
    )


def test_a_way_is_its_scorer_settings_and_model():
    assert way_of(score_row()) == Way("detection", "{}", "b2:engine")


# What commands print


@pytest.fixture
def results(tmp_path):
    """A file with five explained latents, one of them without a score, and one made by rule."""
    path = tmp_path / "results.db"
    with open_results(path, create=True) as db:
        db.execute("pragma foreign_keys = off")
        tiny_results.add_cache(db)
        db.execute("update caches set n_counted = 100")
        db.execute("update coders set n_latents = 5")
        for latent in range(5):
            add_latent(db, latent)
            examples = make_examples(latent)
            explained = store_latent(db, examples)
            score = score_row(value=0.5 + 0.1 * latent) if latent < 4 else nothing_row()
            scores = [score, score_row(scorer="fuzzing", value=0.4 + latent**2 / 100)]
            add_scores(db, examples, explained, *scores)
        made = make_examples(-1)
        for kind in KINDS:
            changed = {"explainer": "oracle", "settings": {"kind": kind}, "name": kind}
            add_scores(db, made, store_latent(db, made, **changed), score_row(value=0.9))
    return path


def call(*arguments):
    found = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "80"})
    assert found.exit_code == 0, found.output
    return found.stdout


def test_list_has_columns_that_are_sorted_and_filtered_by(results):
    found = [json.loads(line) for line in call("list", results, "--json").splitlines()]
    assert [row["latent"] for row in found] == [0, 1, 2, 3, 4]
    options = ("--where", "detection>0.55", "--sort", "fuzzing", "--down", "--json")
    found = [json.loads(line) for line in call("list", results, *options).splitlines()]
    assert [row["latent"] for row in found] == [3, 2, 1]
    found = [
        json.loads(line)
        for line in call("list", results, "--sort", "diagnosis", "--json").splitlines()
    ]
    assert {row["diagnosis"] for row in found} == {"good"}
    table = call("list", results, "--variant", "per_token")
    assert table.splitlines()[1].count("–") == 3


def test_agree_prints_a_table_or_json(results):
    out = call("agree", results)
    assert out.startswith("explanations by llm, 5 latents, raw scores\n")
    (row,) = [json.loads(line) for line in call("agree", results, "--json").splitlines()]
    assert (row["first"], row["second"], row["n"]) == ("fuzzing", "detection", 4)
    assert row["spearman"] == pytest.approx(1)
    assert call("agree", results, "--variant", "relative") == "no relative scores of explanations\n"
    wrong = CliRunner().invoke(app, ["agree", str(results), "--variant", "\x1b"])
    assert wrong.exit_code == 2
    assert "no such variant" in wrong.stderr
    assert "\x1b" not in wrong.stderr


def test_a_run_ends_with_its_latents_their_means_and_what_judges_can_reach(results, capsys):
    print_results(results, CACHE, [1, 2])
    out = capsys.readouterr().out
    table, means, reach = out.strip("\n").split("\n\n")
    assert [line.split()[0] for line in table.splitlines() if line[:6].strip().isdigit()] == [
        "1",
        "2",
    ]
    assert "mean AUROC 0.650 over 2 latents" in means
    assert "oracle" not in means
    assert "0.900" in reach
    assert "made by rule" in reach


# Drafts

TRIED = {
    "drafts": [
        {"text": "years", "failure": None, "held_out_auroc": 0.5},
        {"text": None, "failure": "empty", "held_out_auroc": None},
        {"text": EVIL, "failure": None, "held_out_auroc": 0.75},
    ],
    "kept": 2,
}


def test_what_was_tried_and_what_was_kept_is_told():
    lines = drafts_lines(TRIED)
    assert lines[0] == "  draft AUROC 0.50 on held-out windows: years"
    assert lines[1] == "  draft AUROC – on held-out windows: (none: empty)"
    assert lines[2].startswith("  kept  AUROC 0.75") and harmless(lines[2])


@pytest.mark.parametrize(
    "detail",
    [None, {}, [], 3, {"drafts": 3}, {"drafts": [1, None]}, {"drafts": TRIED["drafts"][:1]}],
)
def test_where_nothing_was_tried_nothing_is_told(detail):
    assert drafts_lines(detail) == []


def test_drafts_of_a_strangers_file_are_text():
    odd = {"drafts": [{"text": 5, "held_out_auroc": "x"}, {"text": ["a\x1b"]}], "kept": "y"}
    assert len(drafts_lines(odd)) == 2 and all(map(harmless, drafts_lines(odd)))
