"""The command that explains: what is asked, stored, resumed; presets; models that stay open."""

import json
import re
import shutil
import sqlite3

import pytest
import tiny_study
from test_cli import call
from typer.testing import CliRunner

from lite_interp import estimate, study, tools
from lite_interp.cli import app
from lite_interp.engine import EngineFailure
from lite_interp.engine.scripted import ScriptedEngine
from lite_interp.errors import UsageError
from lite_interp.explain import EXPLAINERS, find_explainer
from lite_interp.explain_pipeline import ExplainJob, explain_latents, wanted_windows
from lite_interp.ids import content_id
from lite_interp.pipeline import cache_corpus
from lite_interp.prompts import load_prompt
from lite_interp.score.intervention import INTERVENTION
from lite_interp.tools import EngineSource, OpenModels

NAMES = ("llm", "contrastive", "input+output", "revise", "best_of")


def fraction(text: str) -> float:
    return int(content_id(text)[3:9], 16) / 16**6


def judge(text: str) -> dict[str, float]:
    """Numbers that depend on the whole text; what it writes is letters, a line at most."""
    if text.endswith("Answer:"):
        return {"Yes": 4 * fraction(text), "No": 4 * fraction("no" + text)}
    return {letter: 12 * fraction(letter + text) for letter in "abcdefgh "} | {"\n": 8.0}


class Counted(ScriptedEngine):
    """Draws what it writes; counts its calls, and is interrupted in the one after `stop_after`."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(None, judge, n_ctx=8192)
        self.n_calls, self.stop_after = 0, stop_after
        self.asked: list[str] = []
        self.closed = 0

    def _count(self) -> None:
        self.n_calls += 1
        if self.stop_after is not None and self.n_calls > self.stop_after:
            raise KeyboardInterrupt

    def generate(self, prompts, how, root=0):
        self._count()
        self.asked += map(self.text, prompts)
        return super().generate(prompts, how, root)

    def answers(self, prefix, suffixes, choices, root=0):
        self._count()
        self.asked += [self.text([*prefix, *suffix]) for suffix in suffixes]
        return super().answers(prefix, suffixes, choices, root)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache, the parts it was made of, and a file in the place of an engine."""
    folder = tmp_path_factory.mktemp("explaining")
    parts = tiny_study.write_parts(folder, 200)
    cache_corpus(folder / "cached.db", tiny_study.cache_job(parts), tiny_study.Told())
    (folder / "engine.gguf").write_bytes(b"")
    return folder


@pytest.fixture
def results(folder, tmp_path):
    return shutil.copy(folder / "cached.db", tmp_path / "results.db")


@pytest.fixture
def use(monkeypatch):
    def put(engine: ScriptedEngine) -> ScriptedEngine:
        tiny_study.use_engine(monkeypatch, engine)
        return engine

    return put


def options(folder, *names, n_latents=5):
    found = ["--engine", folder / "engine.gguf", "--n", n_latents]
    found += ["--min-density", 0.02, "--max-density", 1]
    found += ["--width", 8, "--shown", 6, "--active", 6, "--silent", 6]
    for name in names:
        found += ["--explainer", name]
    return found


SHORT = [
    *("--option", "revise.max_tokens=6", "--option", "revise.temperature=0.8"),
    *("--option", "best_of.max_tokens=6", "--option", "best_of.k=3"),
    *("--option", "revise.n_rounds=2"),
]


def rows(path, query):
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute(query)]
    db.close()
    return found


def run(*arguments) -> int:
    """Run a command, whatever comes of it; gives its exit code."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code


def explanations(path):
    return rows(path, "select * from explanations order by rowid")


# From the command to the file


@pytest.fixture
def gentle(monkeypatch):
    """Steering that this subject can reach."""
    for key, value in {"kl": 0.1, "n_prompts": 3, "n_tuning": 2, "n_tokens": 4}.items():
        monkeypatch.setitem(INTERVENTION.settings, key, value)


def drafts(row):
    return json.loads(row["detail"])["drafts"]


@pytest.mark.usefixtures("gentle")
def test_all_explainers_of_one_command_are_resumed_to_the_same_bytes(folder, use, tmp_path):
    asked = [*options(folder, *NAMES), *SHORT]
    whole, results = (shutil.copy(folder / "cached.db", tmp_path / n) for n in ("w.db", "r.db"))
    once = use(Counted())
    assert run("explain", whole, *asked) == 0
    codes = []
    while not codes or codes[-1]:
        use(Counted(stop_after=18))
        codes.append(run("explain", results, *asked))
        assert len(codes) < 20
    assert codes == [130] * (len(codes) - 1) + [0]
    assert len(codes) > 2
    # What an engine had kept when it was interrupted is evaluated again, and costs again.
    assert tiny_study.dump(results) == tiny_study.dump(whole)
    made = explanations(whole)
    assert [row["explainer"] for row in made] == [name for name in NAMES for _ in range(5)]
    by_name = {name: [row for row in made if row["explainer"] == name] for name in NAMES}
    for name, each in by_name.items():
        assert sum(row["text"] is not None for row in each) > 1, name
    for name in ("revise", "best_of"):
        for row in by_name[name]:
            detail = json.loads(row["detail"])
            assert row["text"] == detail["drafts"][detail["kept"]]["text"]
    assert any(len(drafts(row)) > 1 for row in by_name["revise"])
    assert all(len(drafts(row)) == 3 for row in by_name["best_of"])
    # Every token that the engine has seen is in the file, once.
    assert sum(row["prompt_tokens"] for row in made) == once.n_evaluated
    assert sum(row["output_tokens"] for row in made) == once.n_written
    assert all(row["prompt_tokens"] > 0 for row in by_name["best_of"])


def test_no_scored_window_is_shown_to_an_explainer(folder, results, use):
    engine = use(Counted())
    call("explain", results, *options(folder, "contrastive", "revise", "best_of"), *SHORT)
    found = rows(
        results,
        "select role, tokens from example_set_windows join windows on windows.id = window_id",
    )
    texts = {role: set() for role in ("shown", "scored", "held_out")}
    for row in found:
        texts[row["role"]].add("".join(json.loads(row["tokens"])).strip())
    seen = {line.strip() for text in engine.asked for line in re.split(r"\n(?:\d+\. )?", text)}
    plain = {line.replace("<<", "").replace(">>", "") for line in seen}
    other = texts["scored"] - texts["shown"] - texts["held_out"]
    assert len(other) > 20
    assert not plain & other
    assert len(plain & texts["held_out"]) > 20
    assert plain & texts["shown"]


def test_an_engine_that_breaks_down_costs_one_latent_its_explanation(folder, results, use):
    class Weak(Counted):
        def generate(self, prompts, how, root=0):
            if not self.n_calls:
                self.n_calls += 1
                raise EngineFailure("code -1")
            return super().generate(prompts, how, root)

    engine = use(Weak())
    call("explain", results, *options(folder, "best_of", n_latents=3), *SHORT)
    made = explanations(results)
    assert [row["failure"] for row in made] == ["engine: code -1", None, None]
    assert [row["prompt_tokens"] > 0 for row in made] == [False, True, True]
    assert sum(row["prompt_tokens"] for row in made) == engine.n_evaluated


# How many windows are held out


def job(folder, *names, **examples):
    windows = {"width": 8, "n_shown": 6, "n_active": 6, "n_silent": 6, **examples}
    return ExplainJob(
        0,
        study.LatentsSection(n=3, min_density=0.02, max_density=1.0),
        study.ExamplesSection(**windows),
        study.EngineSection(model=str(folder / "engine.gguf")),
        study.ExplainSection(explainers=names),
    )


def test_as_many_windows_are_held_out_as_the_hungriest_explainer_wants(folder):
    assert wanted_windows(job(folder, "token_list", "llm")).n_held_out == 0
    assert wanted_windows(job(folder, "llm", "revise")).n_held_out == 10
    assert wanted_windows(job(folder, "revise", n_held_out=4)).n_held_out == 4
    assert wanted_windows(job(folder, "revise", n_held_out=0)).n_held_out == 0


def test_nothing_held_out_is_a_failure_in_the_file(folder, results, use):
    engine = use(Counted())
    asked = options(folder, "revise", "best_of", "contrastive", n_latents=2)
    call("explain", results, *asked, "--held-out", 0)
    failures = [row["failure"] for row in explanations(results)]
    assert failures == ["few_held_out"] * 4 + ["no_silent_windows"] * 2
    assert engine.n_calls == 0


# Settings


def test_a_wrong_setting_of_an_explainer_that_is_not_named_is_refused(folder, results, use):
    use(Counted())
    for text, error in (
        ("best_of.kk=3", "the explainer best_of has no setting: kk"),
        ("best_of.k=many", "wrong value of best_of.k"),
        ("best.k=3", "no explainer is named: best"),
    ):
        _, err = call("explain", results, *options(folder, "llm"), "--option", text, code=2)
        assert error in err


def test_an_explainer_that_is_named_twice_is_asked_once(folder, results, use):
    engine = use(Counted())
    call("explain", results, *options(folder, "llm", "llm", n_latents=2))
    assert len(engine.asked) == len(explanations(results)) == 2


def test_the_prompts_of_draft_and_judge_are_in_the_file(folder, results, use):
    use(Counted())
    call("explain", results, *options(folder, "revise", n_latents=2), *SHORT)
    names = {row["name"] for row in rows(results, "select name from prompts")}
    assert names == {"explain/revise", "explain/small", "score/detection"}
    settings = json.loads(explanations(results)[0]["settings"])
    ids = {row["id"] for row in rows(results, "select id from prompts")}
    assert {settings["draft_prompt"], settings["judge_prompt"]} < ids


def test_the_prompt_that_is_named_is_of_the_first_explainer_that_asks(folder, results, use):
    use(Counted())
    names = ("token_list", "best_of", "llm")
    call("explain", results, *options(folder, *names, n_latents=1), *SHORT, "--prompt", "paper")
    used = {row["explainer"]: row["prompt_id"] for row in explanations(results)}
    paper, small = (load_prompt(f"explain/{name}").id for name in ("paper", "small"))
    assert used == {"token_list": None, "best_of": paper, "llm": small}
    _, err = call("explain", results, *options(folder, "revise"), "--prompt", "paper", code=2)
    assert "the prompt explain/paper lacks a variable: $draft" in err


# Presets


def test_an_option_goes_before_the_preset(folder, results, use):
    use(Counted())
    given = ["--engine", folder / "engine.gguf", "--latents", "5", "--shown", 3, "--width", 8]
    call("explain", results, *given, "--preset", "paper", "--n-ctx", 8192)
    (settings,) = [
        json.loads(row["settings"]) for row in rows(results, "select * from example_sets")
    ]
    assert (settings["n_shown"], settings["width"]) == (3, 8)
    assert (settings["sampler"], settings["n_active"], settings["n_silent"]) == ("random", 100, 100)
    (row,) = explanations(results)
    assert (row["explainer"], row["prompt_id"]) == ("llm", load_prompt("explain/paper").id)
    call("explain", results, *given, "--preset", "paper", "--prompt", "small", "--silent", 50)
    second = rows(results, "select * from example_sets order by rowid")[1]
    assert json.loads(second["settings"])["n_silent"] == 50, "an option counts at its default too"
    assert explanations(results)[1]["prompt_id"] == load_prompt("explain/small").id


def test_an_option_of_scoring_goes_before_the_preset(folder, results, use):
    use(Counted())
    call("explain", results, *options(folder, "token_list", n_latents=3))
    given = ["--preset", "paper", "--scorers", "detection,embedding", "--controls", 1]
    given += ["--engine", folder / "engine.gguf", "--embedder", folder]
    call("score", results, *given)
    settings = [json.loads(row["settings"]) for row in rows(
        results, "select settings from trials where scorer = 'detection'")]  # fmt: skip
    assert {each["list"] for each in settings} == {5}
    call("score", results, *given, "--list", 3)
    call("score", results, *given, "--option", "detection.list=2")
    scorers = rows(results, "select distinct scorer, settings from trials")
    assert {row["scorer"] for row in scorers} == {"detection", "embedding"}
    lists = [json.loads(row["settings"]).get("list") for row in scorers]
    assert sorted(each for each in lists if each) == [2, 3, 5]


def test_an_unknown_preset_is_refused(folder, results):
    _, err = call("explain", results, *options(folder, "llm"), "--preset", "papre", code=2)
    assert "no preset is named: papre" in err and "paper" in err


TABLES = {
    "subject": {"model": "s"},
    "coder": {"path": "c"},
    "corpus": {"paths": ["t"]},
    "preset": "paper",
}


def test_what_a_study_says_goes_before_its_preset():
    own = {"examples": {"n_shown": 7}, "explain": {"explainers": ["token_list"]}}
    whole = study.parse_study({**TABLES, **own}, "study.toml")
    assert (whole.examples.n_shown, whole.examples.sampler) == (7, "random")
    assert (whole.explain.explainers, whole.explain.prompt) == (("token_list",), "")
    assert whole.score.list == 5


@pytest.mark.parametrize(
    ("own", "error"),
    [
        ({"preset": "papre"}, "study.toml: no preset is named: papre"),
        ({"preset": 3}, "study.toml: input should be a valid string: preset"),
        ({"examples": 3}, "study.toml: .*: examples"),
        ({"examples": [{"n_shown": 3}]}, "study.toml: .*: examples"),
        ({"examples": {"n_shown": "40"}}, "study.toml: .*integer: examples.n_shown"),
        ({"examples": {"n_held_out": -1}}, "study.toml: .*: examples.n_held_out"),
        ({"explain": {"settings": {"best_of": 3}}}, "study.toml: .*: explain.settings.best_of"),
    ],
)
def test_a_study_that_cannot_be_is_refused_with_its_preset_too(own, error):
    with pytest.raises(UsageError, match=error):
        study.parse_study({**TABLES, **own}, "study.toml")


def test_prompt_files_are_found_beside_the_study(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text("", encoding="utf-8")
    (tmp_path / "paper").mkdir()
    text = '[subject]\nmodel = "s"\n[coder]\npath = "c"\n[corpus]\npaths = ["t"]\n'
    text += '[explain]\nprompt = "mine.toml"\n[score]\nprompt = "paper"\n'
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    whole = study.read_study(tmp_path / "study.toml")
    assert whole.explain.prompt == str(tmp_path / "mine.toml")
    assert whole.score.prompt == "paper", "a name of a shipped prompt is no folder"


# Plans and estimates


def test_a_plan_says_what_it_leaves_out(folder, results, use):
    use(Counted())
    given = [*options(folder, "llm", "revise", n_latents=2), *SHORT, "--explain-plan"]
    out, err = call("explain", results, *given)
    assert "revise tries what it writes: how much that takes is a guess" in err
    assert "llm tries" not in err
    assert "revise" in out
    assert explanations(results) == []


def test_an_estimate_counts_drafts_revisions_and_tries():
    examples = study.ExamplesSection(width=10, n_shown=10)

    def seconds(name, examples=examples, **settings):
        return estimate.answer_seconds(find_explainer(name, settings), examples, (100.0, 10.0))

    # 10 windows of 14 tokens and 120 around them; 20 tokens written; tried on 20 windows of 14.
    assert seconds("llm") == pytest.approx(260 / 100 + 2)
    assert seconds("best_of") == pytest.approx((260 + 4 * 20 * 14) / 100 + 4 * 2)
    assert seconds("revise") == pytest.approx(2 * (260 + 20 * 14) / 100 + 2 * 2)
    assert seconds("revise", n_rounds=3) == pytest.approx(2 * seconds("revise"))
    fewer = examples.model_copy(update={"n_held_out": 5})
    assert seconds("best_of", fewer) == pytest.approx((260 + 4 * 10 * 14) / 100 + 4 * 2)
    assert seconds("contrastive") == seconds("llm")


# Models that stay open


class Places(EngineSource):
    """A source that says which engines it opened."""

    __slots__ = ()
    opened: list[Counted] = []  # noqa: RUF012 - one list for the whole test

    def open(self, tell=None):
        if self.place == "broken":
            raise UsageError("no such engine")
        self.opened.append(Counted())
        return self.opened[-1]


def test_an_engine_stays_open_until_another_is_wanted():
    Places.opened.clear()
    section = study.EngineSection(model="x")
    first, other = Places("one", section), Places("two", section)
    with OpenModels.borrowed(None) as models:
        one = models.engine(first)
        with OpenModels.borrowed(models) as same:
            assert same.engine(Places("one", study.EngineSection(model="x"))) is one
        assert one.closed == 0
        two = models.engine(other)
        assert (two is not one, one.closed, two.closed) == (True, 1, 0)
        with pytest.raises(UsageError):
            models.engine(Places("broken", section))
        assert two.closed == 1
        three = models.engine(other)
        assert three is not two
        settings = section.model_copy(update={"n_batch": 8})
        assert models.engine(Places("two", settings)) is not three
    assert [engine.closed for engine in Places.opened] == [1, 1, 1, 1]
    models.close()
    assert Places.opened[-1].closed == 1


def test_models_are_closed_when_a_command_is_interrupted():
    Places.opened.clear()
    section = study.EngineSection(model="x")
    with pytest.raises(KeyboardInterrupt), OpenModels.borrowed(None) as models:
        models.engine(Places("one", section))
        raise KeyboardInterrupt
    assert Places.opened[0].closed == 1


def test_an_embedder_is_opened_once(folder, monkeypatch):
    monkeypatch.setattr(tools, "open_embedder", tiny_study.BagOfWords)
    models = OpenModels()
    assert models.embedder(str(folder)) is models.embedder(str(folder))


def test_commands_that_share_models_load_an_engine_once(folder, results, monkeypatch):
    engine = Counted()
    tiny_study.use_engine(monkeypatch, engine)
    loaded = []
    monkeypatch.setattr(tools, "open_engine", lambda path, settings: loaded.append(path) or engine)
    with OpenModels.borrowed(None) as models:
        for name in ("llm", "contrastive", "llm"):
            explain_latents(results, "", job(folder, name), tiny_study.Told(), models)
    assert len(loaded) == 1
    assert set(EXPLAINERS) >= {row["explainer"] for row in explanations(results)}


def test_a_presets_prompt_is_not_that_of_other_explainers(tmp_path):
    table = {
        "preset": "paper",
        "subject": {"model": "s"},
        "coder": {"path": "c"},
        "corpus": {"paths": ["t"]},
    }
    plain = study.parse_study(table, "x").explain
    assert (plain.explainers, plain.prompt) == (("llm",), "explain/paper")
    other = study.parse_study({**table, "explain": {"explainers": ["revise"]}}, "x").explain
    assert (other.explainers, other.prompt) == (("revise",), "")
