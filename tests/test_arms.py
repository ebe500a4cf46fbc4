"""Arms: what they are called, and how a user names one."""

from dataclasses import replace

import pytest
import tiny_results
from tiny_arms import examples_of, explain, judge
from tiny_results import CACHE, CORPUS, EMBEDDER, ENGINE, PROMPT
from tiny_score_rows import EVIL

from lite_interp.compare.arms import arm_of, called, find_arm, load_arms
from lite_interp.db.file import add
from lite_interp.errors import UsageError

VALUES = [1.0, 2.0, 0.0, 1.0, 0.0, 0.0]


@pytest.fixture()
def db():
    return tiny_results.memory()


def names(db):
    return [arm.name for arm in load_arms(db)]


def small_engine(db, name="Qwen2.5 Coder 0.5B", id="b2:0a1b2c3d4e"):
    add(db, "engines", {"id": id, "name": name, "provenance": {}})
    return id


def wide_draw(db):
    """Ten ways in which two latents were explained."""
    small = small_engine(db)
    add(db, "prompts", {"id": "b2:paper", "name": "explain/paper", "text": ""})
    plain = {"settings": {"temperature": 0.0, "seed": 0}}
    for latent in (1, 2):
        usual = examples_of(latent, sampler="top", n_shown=20)
        explain(db, usual, "top", **plain)
        draws = {
            "quantiles": examples_of(latent, name="q", sampler="quantiles", n_shown=20),
            "ten": examples_of(latent, name="t", sampler="quantiles", n_shown=10),
        }
        for name, examples in draws.items():
            explain(db, examples, name, **plain)
        first = draws["quantiles"]
        explain(db, first, "paper", prompt_id="b2:paper", **plain)
        explain(db, first, "small", engine_id=small, **plain)
        explain(db, first, "hot", settings={"temperature": 0.7, "seed": 0})
        explain(
            db,
            replace(first, id=f"{first.id}3", seed=3),
            "again",
            **plain,
        )
        list_ = {"explainer": "token_list", "prompt_id": None, "engine_id": None}
        explain(db, first, "list", settings={}, **list_)
        for source in ("people", "neuronpedia"):
            more = {**list_, "explainer": "import", "settings": {"source": source}}
            explain(db, first, source, **more)


def test_the_plainest_keeps_the_name_and_others_say_what_differs(db):
    wide_draw(db)
    assert names(db) == [
        "llm@sampler=top",
        "llm",
        "llm@shown=10",
        "llm@prompt=explain/paper",
        "llm@engine=Qwen2.5 Coder 0.5B",
        "llm@temperature=0.7",
        "llm@seed=3",
        "token_list",
        "import",
        "import@source=neuronpedia",
    ]


def test_an_arm_knows_its_latents_and_judges(db):
    first, second = examples_of(1), examples_of(2)
    own = explain(db, first)
    explain(db, second, text=None, failure="empty")
    judge(db, own, first, VALUES)
    judge(db, own, first, VALUES, "embedder", scorer="embedding", model_id=EMBEDDER)
    (arm,) = load_arms(db)
    assert arm.explanations == {1: "b2:x1", 2: "b2:x2"}
    assert (arm.n_failed, arm.cache_id, arm.coder_id) == (1, CACHE, "b2:coder")
    assert [tuple(each) for each in arm.judges] == [
        ("detection", ENGINE, "e"),
        ("embedding", EMBEDDER, "m"),
    ]


def test_of_several_explanations_of_a_latent_the_first_counts(db):
    examples = examples_of(1)
    explain(db, examples, "first")
    explain(db, examples, "second")
    (arm,) = load_arms(db)
    assert arm.explanations == {1: "b2:first1"}
    assert arm.others == ("b2:second1",)


def test_everything_that_one_source_says_of_a_latent_is_called_by_its_name(db):
    examples = examples_of(1)
    for name in ("first", "second"):
        explain(db, examples, name, explainer="import", settings={"source": "Anna"})
    assert set(called(db, CACHE).values()) == {"import (Anna)"}
    assert len(called(db, CACHE)) == 2


def test_the_name_of_an_arm_can_be_typed_whatever_its_engine_is_called(db):
    hostile = " a,judge=b  \x1b[2J\n, "
    db.execute("insert into engines (id, name, provenance) values ('b2:h', ?, '{}')", [hostile])
    explain(db, examples_of(1), "plain")
    explain(db, examples_of(1), "other", engine_id="b2:h")
    arms = load_arms(db)
    assert arms[1].name == "llm@engine=a judge=b �[2J↵"
    assert find_arm(arms, arms[1].name) is arms[1]


def test_latents_made_by_rule_are_no_arm(db):
    explain(db, examples_of(-1), explainer="oracle")
    assert load_arms(db) == []


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("llm", "llm"),
        ("llm@sampler=top", "llm@sampler=top"),
        ("llm,sampler=top", "llm@sampler=top"),
        ("sampler=top", "llm@sampler=top"),
        ("llm , shown=10", "llm@shown=10"),
        ("n_shown=10", "llm@shown=10"),
        ("prompt=paper", "llm@prompt=explain/paper"),
        ("prompt=explain/paper", "llm@prompt=explain/paper"),
        ("engine=qwen2.5-coder", "llm@engine=Qwen2.5 Coder 0.5B"),
        ("engine=0.5b", "llm@engine=Qwen2.5 Coder 0.5B"),
        ("engine=0a1b2c", "llm@engine=Qwen2.5 Coder 0.5B"),
        ("engine=b2:0a1b2c", "llm@engine=Qwen2.5 Coder 0.5B"),
        ("temperature=.7", "llm@temperature=0.7"),
        ("llm,seed=3", "llm@seed=3"),
        ("token_list,engine=none", "token_list"),
        ("source=people", "import"),
        ("import,source=Neuronpedia", "import@source=neuronpedia"),
    ],
)
def test_an_arm_is_found_by_its_name_or_by_terms(db, wanted, name):
    wide_draw(db)
    assert find_arm(load_arms(db), wanted).name == name


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ("lllm", "no arm fits: lllm", "did you mean `llm`"),
        ("llm,shown=11", "no arm fits: llm,shown=11", "llm@shown=10"),
        ("shown=20", "several arms fit: shown=20", "llm@sampler=top"),
        ("", "several arms fit: ", "token_list"),
        ("llm,sampel=top", "arms have no such property: sampel", "did you mean `sampler`"),
        ("engine=5b", "no arm fits: engine=5b", "llm"),
        ("engine=0a1", "no arm fits: engine=0a1", "llm"),
        ("llm,judge=e", "nobody of this name judged it: judge=e", "there is none"),
        ("llm,judge=e,judge=m", "several judges: llm,judge=e,judge=m", "name one"),
    ],
)
def test_a_wrong_name_is_one_line_with_what_there_is(db, wanted, message, hint):
    wide_draw(db)
    with pytest.raises(UsageError) as error:
        find_arm(load_arms(db), wanted)
    assert str(error.value) == message
    assert hint in error.value.hint


def test_nothing_fits_in_an_empty_file(db):
    with pytest.raises(UsageError, match="no arm fits: llm") as error:
        find_arm(load_arms(db), "llm,shown=3")
    assert error.value.hint == "there is none"


def test_a_judge_says_whose_verdicts_count(db):
    examples, small = examples_of(1), small_engine(db)
    own = explain(db, examples)
    for model in (ENGINE, small):
        judge(db, own, examples, VALUES, model_id=model)
    arms = load_arms(db)
    assert find_arm(arms, "llm").judge == ""
    found = find_arm(arms, "llm,judge=qwen2.5-coder-0.5b")
    assert (found.judge, found.name) == (small, "llm,judge=Qwen2.5 Coder 0.5B")
    assert find_arm(arms, "judge=e").judge == ENGINE
    with pytest.raises(UsageError, match="nobody of this name judged it") as error:
        find_arm(arms, "llm,judge=qwen3")
    assert "Qwen2.5 Coder 0.5B" in error.value.hint


def test_engines_of_one_name_are_told_apart_by_their_ids(db):
    examples, other = examples_of(1), small_engine(db, "e", "b2:feedbeef00")
    explain(db, examples, "a")
    explain(db, examples, "b", engine_id=other)
    arms = load_arms(db)
    assert [arm.name for arm in arms] == ["llm", "llm@engine=e feedbeef"]
    assert find_arm(arms, "engine=feedbeef").name == arms[1].name


def test_caches_are_told_apart_by_coder_and_corpus(db):
    other = replace(CORPUS, id="b2:letters", name="letters")
    tiny_results.add_cache(db, "b2:another", other)
    explain(db, examples_of(1), "a")
    explain(db, examples_of(1, name="there"), "b", cache="b2:another")
    arms = load_arms(db)
    assert [arm.name for arm in arms] == ["llm", "llm@corpus=letters"]
    for wanted in ("cache=letters", "corpus=letters", "cache=another"):
        assert find_arm(arms, wanted) == arms[1]


def test_an_arm_can_be_made_of_chosen_explanations(db):
    wide_draw(db)
    found = arm_of(db, ["b2:top1", "b2:hot2", "b2:list2"], ENGINE, "mine")
    assert found.explanations == {1: "b2:top1", 2: "b2:hot2"}
    assert (found.judge, found.name, found.cache_id) == (ENGINE, "mine", CACHE)
    with pytest.raises(ValueError, match="one cache"):
        arm_of(db, [])


def test_hostile_names_stay_on_one_line_and_can_be_typed(db):
    examples = examples_of(1)
    for name, source in (("a", "plain"), ("b", EVIL), ("c", EVIL * 9), ("d", EVIL * 9 + "!")):
        explain(db, examples, name, explainer="import", settings={"source": source, EVIL: 1})
    arms = load_arms(db)
    assert len({arm.name for arm in arms}) == 4
    for arm in arms:
        assert "\x1b" not in arm.name and "\n" not in arm.name
        assert find_arm(arms, arm.name) == arm


def test_a_prompt_of_the_file_is_named(db):
    explain(db, examples_of(1))
    (arm,) = load_arms(db)
    assert arm.terms["prompt"] == (PROMPT, "p")


def test_the_usual_prompt_is_plainest_and_a_whole_name_comes_before_a_part(db):
    for number, name in enumerate(("explain/small two", "explain/small")):
        add(db, "prompts", {"id": f"b2:{number}", "name": name, "text": ""})
        explain(db, examples_of(1), f"n{number}", prompt_id=f"b2:{number}")
    arms = load_arms(db)
    assert [arm.name for arm in arms] == ["llm@prompt=explain/small two", "llm"]
    assert find_arm(arms, "prompt=explain/small").name == "llm"
    assert find_arm(arms, "prompt=two").name == arms[0].name
