"""A page about a results file: its records say what the file says, and hide nothing."""

import base64
import gzip
import hashlib
import json
import math
import os
import re
import unicodedata

import pytest
import tiny_report
from hypothesis import given
from hypothesis import strategies as st
from tiny_report import ACTIVE, SILENT, TOKENS, make_results
from tiny_results import CACHE, make_explanation
from typer.testing import CliRunner

from lite_interp.cli import app
from lite_interp.data import data_folder
from lite_interp.db import caches, studies, trials
from lite_interp.db.file import add, open_results, read_results
from lite_interp.errors import UsageError
from lite_interp.overview import latent_rows as listed
from lite_interp.report.latent import latent_record
from lite_interp.report.making import make_report, overview_record
from lite_interp.report.page import embedded_json, packed_json, policy
from lite_interp.report.study import open_study
from lite_interp.report.texts import compact, flat, numbers, pairs, token_text, visible, words
from lite_interp.terminal import Terminal

HIDDEN = "a\x00b\x1b[31m\u202ec\u2066\u200bd\U000e0041\ud800\x85\r\n\te\u2028f"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("report") / "results.db")


@pytest.fixture
def study(results):
    with read_results(results) as db:
        yield open_study(db, caches.the_cache(db))


@pytest.fixture
def overview(study):
    return overview_record(study, "results.db")


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def read_page(path):
    """The overview and the latents of a page, as its script reads them."""
    page = path.read_text(encoding="utf-8")
    (overview,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    packed = re.findall(
        r'<script type="application/gzip" id="latent-data-(\d+)">(.*?)</script>', page
    )
    unpacked = {int(latent): gzip.decompress(base64.b64decode(text)) for latent, text in packed}
    return page, json.loads(overview), {key: json.loads(text) for key, text in unpacked.items()}


# Texts and numbers


def test_every_character_of_a_text_is_seen():
    assert visible(HIDDEN) == "a␀b␛[31m⟨U+202E⟩c⟨U+2066⟩⟨U+200B⟩d⟨U+E0041⟩\ufffd↵↵⇥e↵f"
    assert visible("\x7f\xad") == "␡⟨U+00AD⟩"
    assert visible("plain 年 \u00a0é") == "plain 年 \u00a0é"


def test_joiners_stay_because_scripts_and_emoji_need_them():
    family = "👨\u200d👩\u200d👧 می\u200cخواهم"
    assert visible(family) == family


@given(st.text(st.characters()), st.integers(1, 40))
def test_a_visible_text_hides_nothing_and_has_an_end(text, longest):
    shown = visible(text, longest)
    hidden = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert hidden <= {"\u200c", "\u200d"}
    shown.encode("utf-8")
    assert len(shown) <= 9 * longest + 40


def test_what_is_too_long_is_cut_with_a_note():
    assert token_text("x" * 1_000_000) == "x" * 120 + "… [cut: 1,000,000 characters]"
    assert token_text("x" * 120) == "x" * 120
    assert visible("y" * 4001).endswith("y… [cut: 4,001 characters]")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0.123456, 0.1235),
        (-1234.5678, -1235),
        (1_234_567, 1_234_567),
        (2.0, 2),
        (1.23456e-9, 1.235e-9),
        ([0.5, 0.4, 0.6], 0.5),
        (math.nan, None),
        (math.inf, None),
        ("7", None),
        (None, None),
        (True, None),
    ],
)
def test_numbers_have_four_digits_or_are_none(value, found):
    assert compact(value) == found
    assert type(compact(value)) is type(found)


def test_whatever_stands_in_anothers_file_is_a_list_of_its_kind_or_empty():
    assert pairs([["a\x00", 0.12345], [3, 1], "no", [1], None]) == [["a␀", 0.1235], [3, 1]]
    assert pairs(None) == numbers("x") == words({"a": 1}) == []
    assert numbers([1, "x", 0.55556]) == [1, None, 0.5556]
    assert words(["rare", 7]) == ["rare", "7"]


def test_nested_settings_are_lines():
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {}, "f\x1b": "x\ny"}
    assert list(flat(nested)) == [("a.b", "1"), ("a.c", "1, 2"), ("f␛", "x↵y")]
    assert list(flat("alone")) == [("", "alone")]


# The overview


def test_rows_say_what_list_says(study, overview):
    """The slow twin: `list`, a variant at a time."""
    names = [(way["name"], way["variant"]) for way in overview["ways"]]
    for variant in {variant for _, variant in names}:
        known = listed(study.db, study.cache, variant)
        assert len(overview["rows"]) == len(known)
        for row, other in zip(overview["rows"], known, strict=True):
            same = ("latent", "explanation", "failure", "arm", "diagnosis", "tokens", "seconds")
            assert {key: row[key] for key in same} == {key: other[key] for key in same}
            assert row["density"] == compact(other["density"])
            for place, (name, own) in enumerate(names):
                if own == variant and other.get(name) is not None:
                    ends = ("", "_low", "_high", "_null", "_difference", "_difference_low")
                    found = row["scores"][place]
                    assert found[:6] == [compact(other[name + end]) for end in ends]
                    assert found[7] == compact(other[f"{name}_q"])
                elif own == variant:
                    assert row["scores"][place] is None


def test_ways_are_in_the_order_of_columns_raw_first(overview):
    names = [(way["name"], way["variant"]) for way in overview["ways"]]
    assert names == [
        ("detection", "raw"),
        ("detection", "relative"),
        ("fuzzing", "raw"),
        ("fuzzing", "relative"),
        ("simulation", "raw"),
        ("intruder", "raw"),
    ]
    assert overview["ways"][0]["unit"] == "nats (log-odds of yes)"


def test_a_latent_in_the_table_has_its_flags_and_tokens(overview):
    first = overview["rows"][0]
    assert first["flags"] == ["rare"]
    assert first["top_tokens"] == [" lord", " of"]
    assert first["n_firings"] == 150


def test_means_and_costs_are_told_once_for_each_way(overview):
    (line,) = [each for each in overview["summary"] if each["way"] == 0]
    assert (line["arm"], line["n_latents"]) == ("llm", 3)
    assert line["value"][0] == compact(0.8333333)
    by = {(each["stage"], each["name"], each["arm"]): each for each in overview["costs"]}
    assert by["explain", "", "llm"]["tokens"] == 330
    # Own trial and two controls of three latents, 110 tokens each; two variants, one judging.
    assert by["score", "detection", "llm"]["tokens"] == 990
    assert by["steer", "", ""] == {
        "stage": "steer", "name": "", "arm": "", "n": 3, "tokens": 0, "seconds": 4.5,
    }  # fmt: skip


def test_where_it_came_from_is_said(overview):
    told = overview["study"]
    assert dict(told["facts"])["corpus"].startswith("tiny: 40 tokens in 6 contexts of up to 8")
    assert [model["role"] for model in told["models"]] == ["engine"]
    assert told["prompts"] == [{"name": "p", "lines": ["{}"]}]
    assert ["path", "/models/s"] in dict(told["details"])["subject"]


def test_agreement_is_that_of_agree(tmp_path):
    path = make_results(tmp_path / "five.db", 5)
    with read_results(path) as db:
        study = open_study(db, caches.the_cache(db))
        found = overview_record(study, "five.db")["agreement"]
    assert [each["variant"] for each in found] == ["raw", "relative"]
    assert found[0]["head"] == "explanations by llm, 5 latents, raw scores"
    assert {pair["n"] for pair in found[0]["pairs"]} == {5}
    assert ("fuzzing", "detection") in {(p["first"], p["second"]) for p in found[0]["pairs"]}


def test_only_the_named_latents_and_those_without_an_explanation_too(results):
    with read_results(results) as db:
        study = open_study(db, caches.the_cache(db))
        found = overview_record(study, "x", {1})["rows"]
    assert {row["latent"] for row in found} == {1}


# One latent


def test_each_window_stands_once_and_all_else_names_its_place(study):
    record = latent_record(study, 1)
    (examples,) = record["sets"]
    named = [each[0] for role in ("shown", "scored", "held_out") for each in examples[role]]
    assert sorted(named) == list(range(len(record["windows"])))
    assert [stratum for _, stratum, _ in examples["scored"]] == (
        [f"decile_{n}" for n in range(ACTIVE)] + ["random"] * SILENT
    )
    whole = studies.load_example_set(study.db, study.sets[1][0])
    for (place, _, weight), placed in zip(examples["scored"], whole.scored, strict=True):
        window = record["windows"][place]
        assert tuple(window["tokens"]) == placed.window.tokens
        values = dict(window["fires"])
        for position, value in enumerate(placed.window.values):
            assert values.get(position, 0) == compact(float(value))
        assert weight == placed.weight


def test_verdicts_stand_beside_the_mean_of_the_controls(study):
    record = latent_record(study, 0)
    explanation = record["explanations"][0]
    judged = {each["name"]: each["items"] for each in explanation["judged"]}
    assert list(judged) == ["detection", "fuzzing", "simulation"]
    own = trials.own_margins(study.db, "b2:x0", "detection")
    names = [each.window.id for each in _scored(study, 0)]
    places = {
        examples[0]: name for examples, name in zip(record["sets"][0]["scored"], names, strict=True)
    }
    assert len(judged["detection"]) == ACTIVE + SILENT
    for window, active, value, null in judged["detection"]:
        assert value == compact(own[places[window]])
        assert active == bool(record["windows"][window]["fires"])
        # Both controls judge by the place of the window among the items.
        assert null == names.index(places[window]) % 3


def _scored(study, latent):
    return studies.load_example_set(study.db, study.sets[latent][0]).scored


def test_controls_made_in_another_way_are_no_null(tmp_path):
    path = make_results(tmp_path / "kin.db")
    with open_results(path) as db:
        db.execute("update explanations set settings = '{\"n_words\":9}' where id = 'b2:x1'")
    with read_results(path) as db:
        study = open_study(db, caches.the_cache(db))
        lone, other = (
            latent_record(study, n)["explanations"][0]["judged"][0]["items"] for n in (1, 0)
        )
    assert {item[3] for item in lone} == {None}
    assert None not in {item[3] for item in other}


def test_marks_are_shown_as_the_judge_saw_them(study):
    judged = latent_record(study, 0)["explanations"][0]["judged"]
    (fuzzing,) = [each["items"] for each in judged if each["name"] == "fuzzing"]
    record = latent_record(study, 0)
    for window, right, _, _, more in fuzzing:
        fires = {place for place, _ in record["windows"][window]["fires"]}
        assert more["marks"]
        assert bool(set(more["marks"]) & fires) == bool(right)
    (simulation,) = [each["items"] for each in judged if each["name"] == "simulation"]
    assert len(simulation[0][4]["expected"]) == len(TOKENS)


def test_questions_about_intruders_have_their_windows(study):
    record = latent_record(study, 2)
    (alone,) = record["alone"]
    assert [record_score["n"] for record_score in alone["scores"]] == [[10, 0, 0, 0]]
    (judged,) = alone["judged"]
    for _, _, value, _, more in judged["items"]:
        assert (more["chosen"] == more["place"]) == (value == 1)
        assert len(more["choices"]) == 5
        silent = [not record["windows"][window]["fires"] for window, _ in more["choices"]]
        assert sum(silent) == 1


def test_steering_and_failed_explanations_are_there(study):
    record = latent_record(study, 1)
    (steering,) = record["steerings"]
    assert steering["likelier"] == [[" year", 0.31]]
    assert steering["passages"][0] == {
        "window": record["sets"][0]["scored"][0][0],
        "prompt": "once upon",
        "clean": [" a time", " a hill"],
        "steered": ["meaning 1", "meaning 1"],
    }
    told, failed = record["explanations"]
    assert (told["arm"], told["text"], told["raw"]) == ("llm", "meaning 1", None)
    assert (failed["failure"], failed["raw"]) == ("no_windows", " meaning 1.")
    assert failed["scores"] == failed["judged"] == []


def test_strata_are_told_of_raw_scores_alone(study, overview):
    scores = latent_record(study, 0)["explanations"][0]["scores"]
    by = {overview["ways"][each["way"]]["variant"]: each for each in scores[:2]}
    assert len(by["raw"]["strata"]) == ACTIVE + 1
    assert by["relative"]["strata"] == []
    assert len(by["raw"]["more"]["balanced_accuracy"]) == 3


def test_a_latent_that_was_never_drawn_has_its_statistics(tmp_path):
    path = make_results(tmp_path / "more.db")
    with open_results(path) as db:
        add(db, "latents", _bare(7))
    with read_results(path) as db:
        record = latent_record(open_study(db, caches.the_cache(db)), 7)
    assert record["windows"] == record["sets"] == record["explanations"] == []
    assert record["n_firings"] == 1
    assert "promoted" not in record


def _bare(latent):
    counts = {"n_firings": 1, "n_contexts": 1, "density": 0.001, "max_value": 1.0}
    return {"cache_id": CACHE, "latent": latent, **counts, "mean_value": 1.0, "histogram": [1]}


def test_strange_settings_of_a_scorer_show_no_marks_and_break_nothing(tmp_path):
    path = make_results(tmp_path / "strange.db")
    with open_results(path) as db:
        for strange in ('{"marks":"<b>","threshold":0.3}', "[]", "{"):
            db.execute("update trials set settings = ? where scorer = 'fuzzing'", [strange])
            db.execute("update scores set settings = ? where scorer = 'fuzzing'", [strange])
            study = open_study(db, caches.the_cache(db))
            judged = latent_record(study, 0)["explanations"][0]["judged"]
            (fuzzing,) = [each for each in judged if each["scorer"] == "fuzzing"]
            assert {len(item) for item in fuzzing["items"]} == {4}


def test_steerings_and_sets_of_a_huge_window_are_cut(tmp_path):
    tokens = [" x"] * 600
    path = make_results(tmp_path / "huge.db", 1, tokens=tokens)
    with read_results(path) as db:
        record = latent_record(open_study(db, caches.the_cache(db)), 0)
    assert len(record["windows"][0]["tokens"]) == 513
    assert record["windows"][0]["tokens"][-1] == "… [cut: 600 tokens]"


# The page


@given(st.recursive(st.text(st.characters(blacklist_categories=["Cs"])), st.lists, max_leaves=8))
def test_nothing_in_the_data_can_end_their_block(value):
    text = embedded_json({"x": value})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"x": value}
    assert json.loads(gzip.decompress(base64.b64decode(packed_json(value)))) == value


def test_a_number_that_json_lacks_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        embedded_json(math.nan)
    with pytest.raises(ValueError, match="JSON"):
        packed_json([math.inf])


def test_the_policy_names_what_runs_and_forbids_all_else(results, tmp_path):
    out = tmp_path / "page.html"
    assert run(results, "-o", out).exit_code == 0
    page, _, _ = read_page(out)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (told,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert told == policy(script, style).replace("'", "&#39;")
    assert told.startswith("default-src &#39;none&#39;")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in told
    assert "unsafe" not in told
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page.split("overview-data")[0])


@pytest.mark.parametrize("name", sorted(os.listdir(data_folder("report"))))
def test_the_parts_of_the_page_keep_its_rules(name):
    text = (data_folder("report") / name).read_text(encoding="utf-8")
    assert "innerHTML" not in text
    assert not re.search(r"\son\w+=|eval\(|new Function|insertAdjacent|document\.write", text)
    if name != "report.html":
        assert not re.search(r"</(script|style)|<!--|@import|url\(", text)


def test_a_page_has_every_latent_once_and_the_same_file_the_same_bytes(results, tmp_path):
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    told = run(results, "--out", first)
    assert told.exit_code == 0, told.output
    assert re.search(r"3 latents, 0\.\d MB: ", told.stderr)
    assert run(results, "--out", second).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    _, overview, latents = read_page(first)
    assert list(latents) == [0, 1, 2]
    assert len(overview["rows"]) == 6
    assert latents[1]["latent"] == 1


def test_hostile_texts_stand_in_the_page_as_data(tmp_path):
    evil = "</script><script>alert(1)</script>{{ 7*7 }}{% raw %}&lt;\x00\x1b[2J\u202e"
    path = make_results(tmp_path / "evil.db", 1, [evil], (*TOKENS[:-1], evil))
    with open_results(path) as db:
        for table in ("subjects", "coders", "prompts", "engines"):
            db.execute(f"update {table} set name = ?", [evil])
        db.execute("update corpora set name = ?", [evil])
    assert run(path, "-o", tmp_path / "evil.html").exit_code == 0
    page, overview, latents = read_page(tmp_path / "evil.html")
    assert "<script>alert" not in page
    assert page.count("</script>") == page.count("<script") == 3
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", page)
    shown = visible(evil)
    assert overview["rows"][0]["explanation"] == shown
    assert overview["study"]["coder"] == shown
    assert latents[0]["windows"][0]["tokens"][-1] == shown


def test_a_text_that_is_no_utf_8_is_shown_broken(tmp_path):
    path = make_results(tmp_path / "broken.db", 1)
    with open_results(path) as db:
        db.execute("update explanations set text = cast(x'61ff62' as text) where text is not null")
    assert run(path, "-o", tmp_path / "broken.html").exit_code == 0
    _, overview, _ = read_page(tmp_path / "broken.html")
    assert overview["rows"][0]["explanation"] == "a\ufffdb"


def test_lone_surrogates_of_tokens_are_shown_broken(tmp_path):
    path = make_results(tmp_path / "half.db", 1, tokens=(*TOKENS[:-1], " half"))
    with open_results(path) as db:
        db.execute(r"""update windows set tokens = replace(tokens, ' half', '\ud83d')""")
    assert run(path, "-o", tmp_path / "half.html").exit_code == 0
    _, _, latents = read_page(tmp_path / "half.html")
    assert latents[0]["windows"][0]["tokens"][-1] == "\ufffd"


def test_a_page_is_written_whole_or_not_at_all(results, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    out.write_text("before", encoding="utf-8")

    def broken(study, latent):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lite_interp.report.making.latent_record", broken)
    with pytest.raises(RuntimeError):
        make_report(results, out, Terminal(), force=True)
    assert out.read_text(encoding="utf-8") == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "{there}"], "there is such a file: "),
        (["-o", "{results}", "--force"], "that is the results file: "),
        (["-o", "{folder}"], "a folder, not a file: "),
        (["-o", "{folder}/none/page.html"], "no such folder: "),
        (["-o", "{folder}/page.html", "--latents", "3,100"], "no such latent: 100"),
        (["-o", "{folder}/page.html", "--latents", "x"], "not a list of latents: x"),
        (["-o", "{folder}/page.html", "--cache", "ffff"], "no cache has an id that begins with"),
    ],
)
def test_mistakes_are_one_line_with_a_hint(results, tmp_path, arguments, told):
    there = tmp_path / "there.html"
    there.write_text("x", encoding="utf-8")
    names = {"there": there, "results": results, "folder": tmp_path}
    found = run(results, *(each.format(**names) for each in arguments))
    assert found.exit_code == 2
    assert f"Error: {told}" in found.stderr
    assert "\nhint: " in found.stderr
    assert there.read_text(encoding="utf-8") == "x"


def test_force_replaces_a_page(results, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("x", encoding="utf-8")
    assert run(results, "-o", out, "--force", "--latents", "2").exit_code == 0
    assert list(read_page(out)[2]) == [2]


def test_a_cache_without_explanations_says_so(tmp_path):
    path = tmp_path / "bare.db"
    with open_results(path, create=True) as db:
        tiny_report.tiny_results.add_cache(db)
        db.execute("update caches set n_counted = 10")
        add(db, "latents", _bare(3))
    with pytest.raises(UsageError, match="no latent of this cache was explained or scored"):
        make_report(path, tmp_path / "page.html", Terminal())
    made = make_report(path, tmp_path / "page.html", Terminal(), latents=[3])
    assert made.n_latents == 1
    assert made.n_bytes == made.path.stat().st_size


def test_several_explanations_of_one_latent_are_several_rows(study, overview):
    rows = [row for row in overview["rows"] if row["latent"] == 0]
    assert [(row["arm"], row["explanation"]) for row in rows] == [
        ("llm", "meaning 0"),
        ("token_list", "year"),
    ]
    assert make_explanation(tiny_report.draw(0)).id in study.arms
