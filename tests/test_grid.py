"""A grid of studies: what is varied, a run that goes on where it stopped, and its table."""

import io
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
import tiny_study
from documented import check_records
from rich.console import Console
from typer.testing import CliRunner

from lite_interp import study, tools
from lite_interp.cli import app
from lite_interp.db import studies, trials
from lite_interp.db.conditions import load_conditions, store_condition
from lite_interp.db.file import open_results, read_results
from lite_interp.engine import Rehearsal
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.grid.conditions import BASE, GRIDS, Condition, changed, find_conditions
from lite_interp.grid.page import (
    Sheet,
    _print_table,
    markdown,
    scores_sheet,
    sheets,
    strata_sheets,
)
from lite_interp.grid.paper import PAPER
from lite_interp.grid.running import run_grid
from lite_interp.grid.table import (
    by_decile,
    comparisons,
    difference_rows,
    load_told,
    score_rows,
)
from lite_interp.ids import content_id
from lite_interp.study import read_study
from lite_interp.ways import way_names

PARTS = ("token_list", "top", "engine", "floor", "revise")


def judge_by(name: str):
    def judge(text: str) -> dict[str, float]:
        return {"Yes": 4 * int(content_id(name + text)[3:9], 16) / 16**6}

    return judge


def write(text: str) -> str:
    return " words like " + content_id(text)[3:7]


class Pair:
    """Two scripted engines, told apart by the name of their file."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, path, settings):
        self.opened.append(path.name)
        return ScriptedEngine(write, judge_by(path.name), path.name)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> study.Study:
    folder = tmp_path_factory.mktemp("grid")
    path = tiny_study.write_study(folder)
    tiny_gguf.write(folder / "other.gguf", "llama")
    return read_study(path)


@pytest.fixture
def engines(monkeypatch):
    pair = Pair()
    monkeypatch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
    monkeypatch.setattr(tools, "open_engine", pair)
    monkeypatch.setattr(tools, "rehearse_engine", lambda *each: Rehearsal(pair(*each), []))
    return pair


def other(base: study.Study) -> str:
    return base.engine.model.replace("engine.gguf", "other.gguf")


def conditions(base: study.Study) -> list[Condition]:
    return find_conditions("paper", base, other(base), PARTS)


@pytest.fixture(scope="module")
def ran(base, tmp_path_factory):
    """A grid that was run."""
    path = tmp_path_factory.mktemp("ran") / "grid.db"
    with pytest.MonkeyPatch.context() as patch:
        pair = Pair()
        patch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
        patch.setattr(tools, "open_engine", pair)
        patch.setattr(tools, "rehearse_engine", lambda *each: Rehearsal(pair(*each), []))
        run_grid(path, "paper", base, conditions(base), tiny_study.Told())
    return path


# Conditions


def test_a_condition_changes_what_it_says_and_nothing_else(base):
    found = changed(base, {"examples": {"sampler": "top"}, "score": {"n_controls": 0}})
    assert found.examples == base.examples.model_copy(update={"sampler": "top"})
    assert (found.score.n_controls, found.coder) == (0, base.coder)
    assert changed(base, {}) == base


def test_every_condition_of_the_grid_is_a_study_of_its_own(base):
    found = find_conditions("paper", base, other(base))
    assert len({each.name for each in found}) == len(found)
    assert found[0].name == BASE and found[0].against == ()
    wholes = [
        (changed(base, each.changes).model_dump_json(), each.explained_by, each.judged_by)
        for each in found
    ]
    assert len(set(wholes)) == len(wholes)
    names = {each.name for each in found}
    assert all(set(each.against) <= names for each in found)


def test_what_the_base_has_is_no_condition(base):
    same = base.model_copy(
        update={"examples": base.examples.model_copy(update={"sampler": "top", "n_shown": 40})}
    )
    names = {each.name for each in GRIDS["paper"](same, "")}
    assert "top" not in names and "n40" not in names and "n20" in names
    assert not any("other" in name for name in names), "there is no other engine"


def test_parts_and_conditions_are_chosen_by_name_and_compared_only_with_what_is_there(base):
    found = find_conditions("paper", base, "", ("prompt",))
    assert [each.name for each in found] == [
        BASE, "paper", "paper_no_activations", "paper_thoughts",
    ]  # fmt: skip
    assert found[2].against == ("paper", BASE)
    found = find_conditions("paper", base, "", ("revise", "paper_thoughts"))
    # What it is compared with may have been run before, in another part.
    assert [(each.name, each.against) for each in found] == [
        (BASE, ()), ("revise", ("token_list", BASE)), ("paper_thoughts", ("paper", BASE)),
    ]  # fmt: skip


def test_a_condition_has_one_place_whatever_is_run_beside_it(base):
    whole = {each.name: each.ordinal for each in find_conditions("paper", base, other(base))}
    assert sorted(whole.values()) == list(range(len(whole)))
    for engine, parts in (("", ()), ("", ("floor",)), (other(base), ("engine",))):
        for each in find_conditions("paper", base, engine, parts):
            assert each.ordinal == whole[each.name]


def test_an_engine_that_is_the_bases_is_no_other_engine(base):
    names = {each.name for each in find_conditions("paper", base, base.engine.model)}
    assert names and not any("other" in name for name in names)


def test_the_base_may_have_a_prompt_and_latents_of_its_own(base):
    own = changed(
        base, {"explain": {"prompt": "explain/paper"}, "latents": {"indices": (5, 3, 3), "n": 9}}
    )
    found = {each.name: each for each in find_conditions("paper", own, "")}
    assert "paper" not in found and found[BASE].label.startswith("llm, paper prompt")
    assert changed(own, found["revise"].changes).explain.prompt == "", "it is none for revise"
    assert changed(own, found["top"].changes).explain.prompt == "explain/paper"
    floor = changed(own, found["random_coder"].changes)
    assert (floor.latents.indices, floor.latents.n) == ((), 2), "these are of the trained coder"
    assert changed(own, found["top"].changes).latents == own.latents


def test_a_base_that_stops_judging_when_it_is_sure_is_refused(base):
    early = changed(base, {"score": {"until_sure": 0.2}})
    with pytest.raises(UsageError, match="until_sure"):
        find_conditions("paper", early, "")


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("papr", (), "no grid is named: papr"),
        ("paper", ("samplng",), "no part of the grid is named: samplng"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_what_was_meant(base, name, parts, message):
    with pytest.raises(UsageError, match=message) as caught:
        find_conditions(name, base, "", parts)
    assert "did you mean" in caught.value.hint


# Running


def test_every_condition_is_noted_with_its_explanations(base, ran):
    with read_results(ran) as db:
        rows = load_conditions(db, "paper")
        made = {
            row[0]: row[1:]
            for row in db.execute(
                "select explanations.id, explainer, sampler, engine_id from explanations "
                "join example_sets on example_sets.id = example_set_id"
            )
        }
    assert [row.name for row in rows] == [each.name for each in conditions(base)]
    by_name = {row.name: row for row in rows}
    assert all(len(row.explanation_ids) == 4 for row in rows)
    assert {made[each][0] for each in by_name["token_list"].explanation_ids} == {"token_list"}
    assert {made[each][1] for each in by_name["top"].explanation_ids} == {"top"}
    assert by_name["judged_by_other"].explanation_ids == by_name[BASE].explanation_ids
    assert by_name["judged_by_other"].judge_id != by_name[BASE].judge_id
    assert by_name["explained_by_other"].judge_id == by_name[BASE].judge_id
    explained = {made[each][2] for each in by_name["explained_by_other"].explanation_ids}
    assert explained == {by_name["judged_by_other"].judge_id}
    assert by_name["random_coder"].cache_id != by_name[BASE].cache_id
    assert by_name["random_coder"].settings["coder"]["random"] is True


def test_only_the_base_and_what_is_judged_elsewhere_have_controls(ran):
    with read_results(ran) as db:
        controls = dict(
            db.execute(
                "select explainer || sampler, sum(control) from trials "
                "join explanations on explanations.id = explanation_id "
                "join example_sets on example_sets.id = trials.example_set_id "
                "where scorer = 'detection' group by 1"
            ).fetchall()
        )
    assert controls["token_listquantiles"] == controls["llmtop"] == 0
    assert controls["llmquantiles"] > 0


def test_a_finished_grid_does_nothing(base, ran, engines):
    before = tiny_study.dump(ran)
    told = tiny_study.Told()
    run_grid(ran, "paper", base, conditions(base), told)
    assert tiny_study.dump(ran) == before
    assert not any(told.totals.values())


def test_a_grid_that_is_killed_again_and_again_ends_as_if_it_never_was(
    base, ran, engines, tmp_path
):
    path, n_stops = tmp_path / "grid.db", 0
    while n_stops < 100:
        try:
            run_grid(path, "paper", base, conditions(base), tiny_study.Told(stop_after=9))
            break
        except KeyboardInterrupt:
            n_stops += 1
    assert n_stops > 5
    spent = ("prompt_tokens", "output_tokens", "tokens", "provenance", "fit")
    assert tiny_study.dump(path, without=spent) == tiny_study.dump(ran, without=spent)


def test_what_cannot_work_is_refused_before_anything_is_made(base, tmp_path, engines):
    wrong = Condition("x", "x", "x", {"explain": {"explainers": ("lllm",)}})
    with pytest.raises(UsageError, match="no explainer is named: lllm"):
        run_grid(tmp_path / "no.db", "paper", base, [wrong], tiny_study.Told())
    assert not (tmp_path / "no.db").exists()


def test_an_engine_stays_open_from_condition_to_condition(base, engines, tmp_path, monkeypatch):
    opened = []

    def open_engine(path, settings):
        opened.append(path.name)
        return engines(path, settings)

    monkeypatch.setattr(tools, "open_engine", open_engine)
    few = find_conditions("paper", base, "", ("top", "n10"))
    run_grid(tmp_path / "grid.db", "paper", base, few, tiny_study.Told())
    assert opened == ["engine.gguf"]


def names_of(path) -> list[str]:
    with read_results(path) as db:
        return [row.name for row in load_conditions(db, "paper")]


def test_parts_that_are_run_one_by_one_are_one_table(base, engines, tmp_path):
    path = tmp_path / "grid.db"
    for part in ("top", "token_list", "top"):
        few = find_conditions("paper", base, "", (part,))
        run_grid(path, "paper", base, few, tiny_study.Told())
    assert names_of(path) == [BASE, "token_list", "top"]


def test_conditions_of_another_base_leave_the_table(base, engines, tmp_path):
    path, told = tmp_path / "grid.db", tiny_study.Told()
    run_grid(path, "paper", base, find_conditions("paper", base, "", ("top", "n10")), told)
    fewer = changed(base, {"latents": {"n": 3}})
    few = find_conditions("paper", fewer, "", ("token_list",))
    run_grid(path, "paper", fewer, few, told)
    assert names_of(path) == [BASE, "token_list"]
    assert any("3 conditions leave the table" in line for line in told.lines)
    with read_results(path) as db:
        assert all(len(row.explanation_ids) == 3 for row in load_conditions(db, "paper"))


def test_a_study_that_scores_some_explainers_only_runs_all_conditions(base, engines, tmp_path):
    own = changed(base, {"score": {"explainers": ("llm",)}})
    few = find_conditions("paper", own, "", ("token_list",))
    run_grid(tmp_path / "grid.db", "paper", own, few, tiny_study.Told())
    assert names_of(tmp_path / "grid.db") == [BASE, "token_list"]


# The table


@pytest.fixture(scope="module")
def told(ran):
    with read_results(ran) as db:
        found = load_told(db, "paper")
        return found, comparisons(db, found)


def test_each_condition_has_its_scores_and_the_base_its_null(told):
    rows = score_rows(told[0])
    raw = {(row["condition"], row["scorer"]): row for row in rows if row["variant"] == "raw"}
    for name in ("token_list", "top", "judged_by_other", "random_coder", "revise"):
        assert raw[name, "detection"]["n"] == 4
    scores = [
        score["value"]
        for score in told[0][0].scores
        if score["scorer"] == "detection" and score["variant"] == "raw"
    ]
    assert raw[BASE, "detection"]["mean"] == pytest.approx(np.mean(scores))
    nulls = [
        score["null_value"]
        for score in told[0][0].scores
        if score["scorer"] == "detection" and score["variant"] == "raw"
    ]
    assert raw["shuffled", "detection"]["mean"] == pytest.approx(np.mean(nulls))
    assert raw["shuffled", "detection"]["paper"] == PAPER["shuffled"]["detection"]
    assert ("judged_by_other", "detection") in raw
    one, other = raw[BASE, "detection"]["mean"], raw["judged_by_other", "detection"]["mean"]
    assert one != other


def test_differences_are_paired_where_the_windows_are_the_same(told):
    rows = difference_rows(told[1])
    by_name = {
        (row["condition"], row["against"], row["scorer"], row["variant"]): row for row in rows
    }
    top = by_name["top", BASE, "detection", "raw"]
    assert (top["pairing"], top["n"]) == ("items", 4)
    assert top["difference"] == pytest.approx(top["first"] - top["second"])
    assert by_name["top", BASE, "detection", "relative"]["n"] == 4, "the base's controls serve it"
    assert by_name["judged_by_other", BASE, "detection", "raw"]["n"] == 4
    assert by_name["random_coder", BASE, "detection", "raw"]["pairing"] == "none"
    assert {row["against"] for row in rows if row["condition"] == "revise"} == {BASE, "token_list"}
    assert all(row["q"] is None or row["q"] >= row["p"] for row in rows)


def test_the_tables_name_every_condition_and_what_was_visible(told):
    by_title = {sheet.title: sheet for sheet in sheets(*told)}
    scores = by_title["Scores: detection, AUROC"]
    labels = [row[0] for row in scores.rows]
    assert "token list: no engine" in labels and any("shuffled" in each for each in labels)
    assert len(labels) == len(told[0]) + 1
    assert scores.rows[1][-1] == ".51 (.45-.58)"
    differences = by_title["Differences: detection, relative"]
    assert {row[0] for row in differences.rows} >= {
        "top − base", "revise − token_list", "random_coder − base (not paired)",
    }  # fmt: skip
    text = markdown(differences)
    assert text.count("\n| ") == len(differences.rows) + 2, "and the head"
    strata = by_title["Samplers by decile: detection, raw"]
    assert strata.header == ("windows", "top − base")
    assert strata.rows[-1][0] == "weak − strong"


def test_halves_of_the_deciles_by_hand(told):
    one = next(one for name, _, one in told[1] if name == "top" and one.variant == "raw")
    found = by_decile(one)
    gains = []
    for latent in one.latents:
        part = [
            (stratum.n_items, stratum.first - stratum.second)
            for name, stratum in latent.strata.items()
            if name in ("decile_5", "decile_6", "decile_7", "decile_8", "decile_9")
        ]
        gains.append(sum(n * gain for n, gain in part) / sum(n for n, _ in part))
    assert found["weak half"].value == pytest.approx(np.mean(gains))
    assert found["weak − strong"].value == pytest.approx(
        found["weak half"].value - found["strong half"].value
    )


def test_what_a_file_says_of_one_latent_is_that_part_of_all(ran):
    with read_results(ran) as db:
        cache_id = load_conditions(db, "paper")[0].cache_id
        scores = trials.load_scores(db, cache_id)
        explanations = studies.load_explanations(db, cache_id)
        latents = {row["latent"] for row in scores}
        assert len(latents) == 4
        for latent in latents:
            own = [row for row in scores if row["latent"] == latent]
            assert trials.load_scores(db, cache_id, latent) == own
            own = [each for each in explanations if each.latent == latent]
            assert studies.load_explanations(db, cache_id, latent) == own
        assert way_names(trials.scored_ways(db, cache_id)) == way_names(scores)


def test_the_command_prints_what_is_there(ran):
    call = CliRunner().invoke
    shown = call(app, ["study", "paper", "--out", str(ran), "--table"])
    assert shown.exit_code == 0, shown.output
    assert "top − base" in shown.output and "visible" in shown.output
    plain = call(app, ["study", "paper", "--out", str(ran), "--table", "--json"])
    check_records("study", plain.stdout)
    marked = call(app, ["study", "paper", "--out", str(ran), "--table", "--markdown"])
    assert "### Differences" in marked.stdout


def test_two_ways_of_one_scorer_are_not_mixed_and_other_judges_do_not_count(ran, tmp_path):
    path = tmp_path / "grid.db"
    path.write_bytes(ran.read_bytes())
    with read_results(ran) as db:
        before = score_rows(load_told(db, "paper"))
        n_before = len(comparisons(db, load_told(db, "paper")))
    with closing(sqlite3.connect(path)) as db, db:
        names = [row[1] for row in db.execute("pragma table_info(scores)")]
        for scorer, column, told in (
            ("detection", "model_id", "'b2:another'"),
            ("embedding", "model_id", "'b2:another'"),
            ("detection", "settings", "json_set(settings, '$.top', 3)"),
        ):
            copied = ", ".join(told if name == column else name for name in names)
            db.execute(
                f"insert or ignore into scores select {copied} from scores "
                f"where scorer = '{scorer}' and model_id <> 'b2:another'"
            )
    with read_results(path) as db:
        rows = score_rows(load_told(db, "paper"))
        assert len(comparisons(db, load_told(db, "paper"))) == n_before
    assert {row["scorer"] for row in rows} == {
        "detection", "detection@top=3", "embedding", "embedding@model=another",
    }  # fmt: skip
    assert [row for row in rows if "@" not in row["scorer"]] == before


def test_a_condition_all_of_whose_explanations_failed_is_in_the_table(told):
    failed = told[0][1]._replace(scores=[], arm=replace(told[0][1].arm, n_failed=4))
    made = {sheet.title: sheet for sheet in sheets([told[0][0], failed], [])}
    row = made["Scores: detection, AUROC"].rows[-1]
    assert row[:3] == (failed.row.label, "0 of 4 (4 failed)", "–")


def test_a_comparison_says_how_many_latents_are_left_out(told):
    some = [
        (name, against, replace(one, left_out={"not judged in A": 2}))
        for name, against, one in told[1]
        if name in ("top", "random_coder") and one.variant == "raw"
    ]
    rows = difference_rows(some)
    assert rows[0]["latents_left_out"] == {"not judged in A": 2}
    cells = {row[0]: row[1] for sheet in sheets([], some) for row in sheet.rows}
    assert cells["top − base"] == "4 of 6"
    assert cells["random_coder − base (not paired)"] == "4 + 4 of 10"


def test_what_is_no_area_has_neither_accuracy_nor_deciles(told):
    row = {**score_rows(told[0])[0], "scorer": "intervention@kl=2", "statistic": "nats"}
    sheet = scores_sheet("intervention@kl=2", [{**row, "accuracy_quartiles": None}])
    assert sheet.title == "Scores: intervention@kl=2, gain" and "accuracy" not in sheet.header
    assert scores_sheet("detection", [row]).header[-2] == "accuracy"
    found = [(name, against, replace(one, strata=())) for name, against, one in told[1]]
    assert strata_sheets(found) == []


def test_texts_of_others_break_no_table():
    sheet = Sheet("a\x1b[2J\nb", ("x\x9b", "y"), [("\\|<img>\x1b", "[a](b)")], "")
    text = markdown(sheet)
    assert "\x1b" not in text and "\x9b" not in text and "### a [2J b" in text
    assert "| \\\\\\|&lt;img> | [a]\\(b) |".replace("\\\\\\", "\\\\\\") in text
    console = Console(width=60, record=True, file=io.StringIO())
    _print_table(sheet, console)
    assert not {"\x1b", "\x9b"} & set(console.export_text())


def test_sizes_are_those_of_the_study_file_unless_an_option_names_them(base, monkeypatch):
    seen = []
    monkeypatch.setattr("lite_interp.grid.running.run_grid", lambda *each: seen.append(each[2]))
    monkeypatch.setattr("lite_interp.grid.page.print_grid", lambda *each: None)
    folder = Path(base.subject.model).parent
    (folder / "own.toml").write_text(
        (folder / "study.toml").read_text().replace("n = 4", "indices = [1, 2]")
    )

    def ask(*more: str) -> study.Study:
        found = CliRunner().invoke(app, ["study", "paper", "--out", "x.db", *more])
        assert found.exit_code == 0, found.output
        return seen[-1]

    own = ask("--base", str(folder / "own.toml"))
    assert (own.latents.indices, own.examples, own.score.n_controls) == ((1, 2), base.examples, 2)
    own = ask("--base", str(folder / "own.toml"), "--latents", "3", "--scorers", "embedding")
    assert (own.latents.indices, own.latents.n) == ((), 3)
    assert own.score.scorers == ("embedding",)
    shipped = ask("--seed", "5")
    sizes = shipped.latents.n, shipped.examples.n_shown, shipped.examples.n_active
    assert sizes == (24, 20, 16) and shipped.seed == 5
    assert shipped.score.scorers == ("detection", "embedding")


def test_a_grid_that_was_not_run_has_no_table(ran):
    found = CliRunner().invoke(app, ["study", "papr", "--out", str(ran), "--table"])
    assert found.exit_code == 2
    assert "no grid is named: papr" in found.output


def test_a_condition_that_is_run_anew_takes_the_place_of_the_old_one(ran, tmp_path):
    """Another second engine, say: same base, same name, other explanations."""
    path = shutil.copy(ran, tmp_path / "grid.db")
    with open_results(path) as db:
        before = load_conditions(db, "paper")
        store_condition(db, before[-1]._replace(label="another"))
        after = load_conditions(db, "paper")
    assert after == [*before[:-1], before[-1]._replace(label="another")]
