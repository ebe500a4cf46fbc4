"""A grid of studies: what is varied, a run that goes on where it stopped, and its table."""

import json

import numpy as np
import pytest
import tiny_gguf
import tiny_study
from typer.testing import CliRunner

from lite_interp import study, tools
from lite_interp.cli import app
from lite_interp.db.conditions import load_conditions
from lite_interp.db.file import read_results
from lite_interp.engine import Rehearsal
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.grid.conditions import BASE, GRIDS, Condition, changed, find_conditions
from lite_interp.grid.page import markdown, sheets
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
    assert [(each.name, each.against) for each in found] == [
        (BASE, ()), ("revise", (BASE,)), ("paper_thoughts", (BASE,)),
    ]  # fmt: skip


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
    scores = by_title["Scores: detection, auroc"]
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


def test_the_command_prints_what_is_there(ran):
    call = CliRunner().invoke
    shown = call(app, ["study", "paper", "--out", str(ran), "--table"])
    assert shown.exit_code == 0, shown.output
    assert "top − base" in shown.output and "visible" in shown.output
    plain = call(app, ["study", "paper", "--out", str(ran), "--table", "--json"])
    rows = [json.loads(line) for line in plain.stdout.splitlines()]
    assert {row["kind"] for row in rows} == {"score", "difference"}
    marked = call(app, ["study", "paper", "--out", str(ran), "--table", "--markdown"])
    assert "### Differences" in marked.stdout


def test_a_grid_that_was_not_run_has_no_table(ran):
    found = CliRunner().invoke(app, ["study", "papr", "--out", str(ran), "--table"])
    assert found.exit_code == 2
    assert "no grid is named: papr" in found.output
