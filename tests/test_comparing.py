"""Two arms: pairing, the same controls, failures, other windows, other coders, judges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_results
from tiny_arms import examples_of, explain, judge, two_arms
from tiny_results import CORPUS, EMBEDDER, ENGINE, make_explanation

from lite_interp.compare import comparing
from lite_interp.compare.arms import arm_of, find_arm, load_arms
from lite_interp.compare.comparing import compare, most_changed
from lite_interp.compare.differences import areas, paired, win_table
from lite_interp.compare.judged import Judged
from lite_interp.db import trials
from lite_interp.db.file import add
from lite_interp.errors import UsageError

TRUTH = np.array([True, True, True, False, False, False])

# Wins of the three activating items: 3 + 3 + 3 of 9, and 3 + 3 + 1: areas 1 and 7/9.
BEST = [3.0, 2.0, 1.0, 0.0, 0.0, 0.0]
FAIR = [3.0, 2.0, 0.5, 0.0, 1.0, 1.0]


@pytest.fixture()
def db():
    return tiny_results.memory()


def found(db, first="llm", second="token_list", **options):
    arms = load_arms(db)
    both = find_arm(arms, first), find_arm(arms, second)
    return {(c.scorer, c.variant): c for c in compare(Judged(db), *both, **options)}


def raw(db, *arms, **options):
    return found(db, *arms, **options)["detection", "raw"]


def draw(n, effect=0.0, seed=0):
    """Values of n latents under two explanations: windows weigh on both alike."""
    random = np.random.default_rng(seed)
    shared = random.normal(0, 2, (n, 6))
    own = [shared + gain * TRUTH + random.normal(0, 1, (n, 6)) for gain in (1 + effect, 1)]
    return tuple(dict(enumerate(side.tolist())) for side in own)


def test_areas_of_the_same_items_are_subtracted(db):
    two_arms(db, {1: BEST, 2: BEST, 3: FAIR}, {1: FAIR, 2: BEST, 3: FAIR})
    it = raw(db)
    assert (it.pairing, it.statistic, it.models) == ("items", "auroc", ("e", "e"))
    assert (it.n_items, it.n_left_out, it.left_out, it.reason) == (18, 0, {}, None)
    assert [each.numbers.first for each in it.latents] == pytest.approx([1, 1, 7 / 9])
    assert [each.numbers.second for each in it.latents] == pytest.approx([7 / 9, 1, 7 / 9])
    assert it.means.difference.value == pytest.approx((2 / 9) / 3)
    assert it.means == paired(np.array([1, 1, 7 / 9]), np.array([7 / 9, 1, 7 / 9]))
    assert (it.means.n_up, it.means.n_down) == (1, 0)
    wins = [win_table(TRUTH, np.array(each)) for each in (BEST, FAIR)]
    assert it.latents[0].numbers == areas((wins[0], wins[1]))
    assert it.latents[0].texts == ("llm says 1", "token_list says 1")


def test_an_arm_is_the_same_as_itself(db):
    two_arms(db, *draw(5))
    it = raw(db, "llm", "llm")
    assert (it.means.difference.value, it.means.p_value, it.found) == (0.0, 1.0, False)
    assert [each.numbers.difference.value for each in it.latents] == [0.0] * 5
    assert most_changed(it, 5) == ([], [])


def test_swapped_arms_have_the_other_sign(db):
    two_arms(db, *draw(6))
    one, other = raw(db), raw(db, "token_list", "llm")
    value, low, high = one.means.difference
    assert other.means.difference == pytest.approx((-value, -high, -low))
    assert one.means.p_value == pytest.approx(other.means.p_value)
    assert one.means.visible == pytest.approx(other.means.visible)
    assert (one.means.n_up, one.means.n_down) == (other.means.n_down, other.means.n_up)
    for here, there in zip(one.strata, other.strata, strict=True):
        assert here.means.difference.value == pytest.approx(-there.means.difference.value)
    for here, there in zip(most_changed(one, 9), most_changed(other, 9)[::-1], strict=True):
        assert [each.latent for each in here] == [each.latent for each in there]


def test_a_planted_difference_is_found_and_none_is_not(db):
    two_arms(db, *draw(40, effect=2.0))
    it = raw(db)
    assert it.found and it.means.difference.low > 0
    nothing = tiny_results.memory()
    two_arms(nothing, *draw(40, seed=1))
    assert not raw(nothing).found


def test_strata_stand_against_all_items_of_the_other_side(db):
    two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR})
    strata = {each.name: each for each in raw(db).strata}
    assert list(strata) == ["decile_0", "decile_1", "decile_2", "random"]
    assert [strata[f"decile_{n}"].means.second.value for n in range(3)] == pytest.approx(
        [1, 1, 1 / 3]
    )
    assert strata["decile_2"].means.difference.value == pytest.approx(2 / 3)
    assert strata["decile_2"].n_items == 2
    assert strata["random"].means.difference.value == pytest.approx(2 / 9)


def test_two_kinds_of_silent_windows_are_strata_of_their_own(db):
    for name, explainer, told in (("a", "llm", BEST), ("b", "token_list", FAIR)):
        for latent in (1, 2):
            plain = examples_of(latent)
            near = [p._replace(stratum="near") if n == 3 else p for n, p in enumerate(plain.scored)]
            examples = replace(plain, scored=tuple(near))
            judge(db, explain(db, examples, name, explainer=explainer), examples, told)
    strata = {each.name: each.means.second.value for each in raw(db).strata}
    # B: 3, 2, .5 against 0: all win. Against 1 and 1: four of six.
    assert (strata["near"], strata["random"]) == pytest.approx((1, 4 / 6))


def controls_for(db, values, latents=(7, 8), explainer="llm", on=(1, 2), **changed):
    """Explanations of other latents, judged on the windows of some."""
    for other in latents:
        own = explain(db, examples_of(other), f"c{explainer}", explainer=explainer)
        for latent in on:
            judge(db, own, examples_of(latent), values[other], control=True, **changed)


SHIFT = np.array([0.0, -4.0, 1.0, 2.0, 5.0, -1.0])
"""What a judge says of each window, whatever the explanation."""


def test_relative_takes_the_same_controls_from_both_sides(db):
    told = (
        {latent: list(SHIFT + BEST) for latent in (1, 2)},
        {latent: list(SHIFT + FAIR) for latent in (1, 2)},
    )
    two_arms(db, *told)
    controls_for(db, {7: list(SHIFT + 0.5), 8: list(SHIFT - 0.5)})
    both = found(db)
    relative = both["detection", "relative"].means
    assert relative.first.value == pytest.approx(1)
    assert relative.second.value == pytest.approx(7 / 9)
    assert both["detection", "raw"].means.first.value < 0.8
    # token_list has no controls of its own: those of llm do.
    assert relative.n_first == 2


def test_controls_of_both_arms_count_once_each(db, monkeypatch):
    two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR})
    controls_for(db, {7: list(SHIFT), 8: list(SHIFT)})
    controls_for(db, {9: list(10 * SHIFT)}, (9,), "token_list")
    seen = []
    real = comparing.match

    def spy(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(comparing, "match", spy)
    found(db)
    one = next(each for each in seen if each)
    assert sorted(one.controls[0].sum(axis=1)) == [3.0, 3.0, 30.0]
    assert one.controls[0].tolist() == one.controls[1].tolist()


def test_controls_of_another_draw_count_where_the_question_is_the_same(db):
    for scorer in ("detection", "fuzzing"):
        two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR}, scorer=scorer)
        for latent in (1, 2):
            examples = examples_of(latent)
            other = half(examples, (5, 4, 3, 2, 1, 0), "drawn")
            third = explain(db, other, "third", explainer="output")
            judge(db, third, other, BEST[::-1], scorer=scorer)
            for number in (7, 8):
                own = explain(db, examples_of(number), "c", explainer="output")
                judge(db, own, other, list(SHIFT[::-1]), scorer=scorer, control=True)
    both = found(db)
    assert both["detection", "relative"].reason is None
    # Marks depend on what else is in the set, and in which order.
    assert both["fuzzing", "relative"].reason == "fewer than two latents with a number"


def test_a_control_that_failed_on_an_item_is_left_out(db):
    two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR})
    controls_for(db, {7: list(SHIFT), 8: [None, *SHIFT[1:]]})
    it = found(db)["detection", "relative"]
    assert it.reason == "fewer than two latents with a number"
    assert it.left_out["fewer than two controls on the same items"] == 2
    assert math.isnan(it.means.difference.value)


def test_only_items_that_both_judged_count_and_the_others_are_told(db):
    # B has failed on the last silent window, A on the second activating one.
    two_arms(
        db,
        {1: [3.0, None, 1.0, 0.0, 2.0, 9.0], 2: BEST},
        {1: [3.0, 2.0, 1.0, 0.0, 2.0, None], 2: BEST},
    )
    it = raw(db)
    assert it.latents[0].numbers.first == it.latents[0].numbers.second == 0.75
    assert (it.latents[0].n_items, it.latents[0].n_left_out) == (4, 2)
    assert (it.n_items, it.n_left_out) == (10, 2)


def half(examples, places, name):
    """An example set with some of the scored windows."""
    return replace(
        examples, id=f"{examples.id}{name}", scored=tuple(examples.scored[n] for n in places)
    )


def test_other_example_sets_pair_by_window(db):
    for latent in (1, 2):
        whole = examples_of(latent)
        some = half(whole, (0, 2, 3, 4), "some")
        judge(db, explain(db, whole, "a"), whole, BEST)
        other = explain(db, some, "b", explainer="token_list")
        judge(db, other, some, [3.0, 0.5, 0.0, 1.0])
    it = raw(db)
    assert (it.pairing, it.n_items, it.n_left_out) == ("items", 8, 4)
    assert it.means.first.value == 1
    assert it.means.second.value == pytest.approx(3 / 4)


def test_windows_that_overlap_by_accident_are_not_paired(db):
    for latent in (1, 2):
        whole = examples_of(latent)
        first, second = half(whole, (0, 1, 3, 4), "a"), half(whole, (1, 2, 4, 5), "b")
        first = half(first, (0, 2, 3, 1), "")
        judge(db, explain(db, first, "a"), first, [3.0, 0.0, 0.0, 2.0])
        other = half(second, (1, 2, 3), "")
        judge(db, explain(db, other, "b", explainer="token_list"), other, [0.5, 0.0, 1.0])
    it = raw(db)
    assert it.pairing == "latents"
    assert (it.means.first.value, it.means.second.value) == pytest.approx((1, 0.5))
    assert it.latents[0].numbers.difference.low < 0.5 < it.latents[0].numbers.difference.high
    assert math.isnan(it.latents[0].numbers.p_value)
    strata = {each.name: each.means.difference.value for each in it.strata}
    assert strata == {"random": pytest.approx(0.5)}  # no decile is in both


def test_marks_of_other_example_sets_are_other_questions(db):
    """Wrong marks come from the other windows of a set: same name, but not the same item."""
    for latent in (1, 2):
        whole = examples_of(latent)
        some = half(whole, (0, 1, 2, 3, 4), "some")
        judge(db, explain(db, whole, "a"), whole, BEST, scorer="fuzzing")
        other = explain(db, some, "b", explainer="token_list")
        judge(db, other, some, FAIR[:5], scorer="fuzzing")
        same = replace(whole, id=f"{whole.id}same", shown=())
        judge(db, explain(db, same, "c", explainer="output"), same, FAIR, scorer="fuzzing")
    assert found(db)["fuzzing", "raw"].pairing == "latents"
    assert found(db, "llm", "output")["fuzzing", "raw"].pairing == "items"


def test_steered_texts_of_other_example_sets_are_other_questions(db):
    for latent, gain in ((1, 2.0), (2, 3.0)):
        for name, explainer in (("a", "llm"), ("b", "token_list")):
            examples = examples_of(latent, name=name)
            own = explain(db, examples, name, explainer=explainer)
            judged_gain(db, own, examples, gain + (name == "a"))
    both = found(db)
    assert both["intervention", "raw"].pairing == "latents"
    assert both["intervention", "raw"].means.difference.value == pytest.approx(1)


def judged_gain(db, explanation, examples, gain, n_tokens=4):
    """Verdicts of intervention: the same gain at each prompt, and how long the explanation is."""
    trial = tiny_results.make_trial(explanation, examples, [gain] * 6, scorer="intervention")
    detail = {"n_tokens": n_tokens}
    verdicts = tuple(replace(each, detail=detail) for each in trial.verdicts)
    trials.store_trials(db, [(replace(trial, verdicts=verdicts), tiny_results.USAGE)], "engine")


def test_gains_are_compared_and_those_per_token_too(db):
    for latent, gain in ((1, 2.0), (2, 3.0), (3, 7.0)):
        examples = examples_of(latent)
        judged_gain(db, explain(db, examples, "a"), examples, gain, 8)
        other = explain(db, examples, "b", explainer="token_list")
        judged_gain(db, other, examples, gain - 0.5, 4)
    both = found(db)
    assert set(both) == {("intervention", "raw"), ("intervention", "per_token")}
    assert both["intervention", "raw"].pairing == "items"
    assert both["intervention", "raw"].means.difference.value == 0.5
    assert both["intervention", "raw"].means.p_value == 2 * 0.5**3
    # 2/8 − 1.5/4, 3/8 − 2.5/4, 7/8 − 6.5/4.
    assert both["intervention", "per_token"].means.difference.value == pytest.approx(
        np.mean([-0.125, -0.25, -0.75])
    )
    assert both["intervention", "raw"].strata == ()


def rated(db, explanation, examples, told):
    """Verdicts of simulation: ratings of the three tokens of each window."""
    trial = tiny_results.make_trial(explanation, examples, [1.0] * 6, scorer="simulation")
    verdicts = tuple(
        replace(each, detail={"expected": list(row), "mass": 1.0})
        for each, row in zip(trial.verdicts, told, strict=True)
    )
    trials.store_trials(db, [(replace(trial, verdicts=verdicts), tiny_results.USAGE)], "engine")


def test_correlations_are_compared(db):
    for latent in (1, 2, 3):
        examples = examples_of(latent)
        truth = np.array([placed.window.values for placed in examples.scored], np.float64)
        noise = np.random.default_rng(latent).normal(size=truth.shape)
        rated(db, explain(db, examples, "a"), examples, truth + 0.1 * noise)
        other = explain(db, examples, "b", explainer="token_list")
        rated(db, other, examples, np.full(truth.shape, 2.0) if latent == 3 else noise)
    it = found(db)["simulation", "raw"]
    assert it.left_out == {"all values are equal in B": 1}
    assert it.means.n_first == 2
    assert it.means.first.value > 0.9 > 0.5 > it.means.second.value
    assert all(each.numbers.difference.low > 0 for each in it.latents[:2])


def test_a_latent_without_a_number_is_told(db):
    plain = [0.0] * 6
    two_arms(
        db,
        {1: BEST, 2: BEST, 3: plain, 5: BEST, 6: [None] * 6, 7: [1.0, 1.0, None, None, None, None]},
        {1: FAIR, 2: FAIR, 3: FAIR, 4: FAIR, 6: FAIR, 7: FAIR},
    )
    failed = {"text": None, "failure": "engine: out of \x1b[2J memory"}
    explain(db, examples_of(8), "a", **failed)
    explain(db, examples_of(8), "b", explainer="token_list")
    explain(db, examples_of(9), "a")
    explain(db, examples_of(9), "b", explainer="token_list")
    it = raw(db)
    assert (it.means.n_first, it.reason) == (2, None)
    assert it.left_out == {
        "all values are equal in A": 1,
        "not explained in A": 1,
        "not explained in B": 1,
        "no item that both judged": 1,
        "no silent item that both judged": 1,
        "no explanation in A: engine": 1,
        "not judged in A": 1,
    }
    assert len(it.latents) == 9


def test_fewer_than_two_latents_are_no_comparison(db):
    two_arms(db, {1: BEST}, {1: FAIR})
    it = raw(db)
    assert it.reason == "fewer than two latents with a number"
    assert (it.means.n_first, it.found) == (1, False)
    assert all(math.isnan(value) for value in (*it.means.difference, it.means.visible))
    assert it.latents[0].numbers.difference.value == pytest.approx(2 / 9)


def second_cache(db, coder="b2:coder"):
    corpus = replace(CORPUS, id="b2:letters", name="letters")
    tiny_results.add_cache(db, "b2:other", corpus)
    if coder != "b2:coder":
        row = next(db["coders"].rows)
        fit = {"fit": {}, "provenance": {}}
        add(db, "coders", {**row, **fit, "id": coder, "name": "random"})
        db.execute("update caches set coder_id = ? where id = 'b2:other'", [coder])


def elsewhere(db, told):
    """Explanations and verdicts in the other cache; its windows have other names."""
    for latent, values in told.items():
        plain = examples_of(latent, name="there")
        scored = tuple(
            p._replace(window=replace(p.window, id=f"{p.window.id}there")) for p in plain.scored
        )
        examples = replace(plain, scored=scored, shown=())
        judge(db, explain(db, examples, "there", cache="b2:other"), examples, values)


def test_another_corpus_pairs_by_latent(db):
    second_cache(db)
    two_arms(db, {1: BEST, 2: BEST, 3: FAIR}, {})
    elsewhere(db, {1: FAIR, 2: FAIR, 3: FAIR})
    explain(db, examples_of(4), "a")
    explain(db, examples_of(4, name="there"), "there", "b2:other", text=None, failure="empty")
    it = raw(db, "llm", "corpus=letters")
    assert it.pairing == "latents"
    assert it.left_out == {"no explanation in B: empty": 1}
    assert it.means == paired(np.array([1, 1, 7 / 9]), np.array([7 / 9] * 3))
    assert it.latents[0].n_items == 12


def test_another_coder_is_not_paired(db):
    second_cache(db, "b2:random")
    two_arms(db, {1: BEST, 2: BEST, 3: FAIR}, {})
    elsewhere(db, {2: FAIR, 5: FAIR, 6: [1.0] * 6, 7: BEST, 8: FAIR})
    it = raw(db, "llm", "coder=random")
    assert it.pairing == "none"
    assert (it.means.n_first, it.means.n_second) == (3, 4)
    assert it.means.difference.value == pytest.approx((2 + 7 / 9) / 3 - (1 + 3 * 7 / 9) / 4)
    assert it.left_out == {"all values are equal in B": 1}
    assert [each.latent for each in it.latents] == [1, 2, 2, 3, 5, 6, 7, 8]
    assert it.latents[1].texts == ("llm says 2", None)
    assert it.latents[2].texts[0] is None
    assert most_changed(it, 5) == ([], [])
    assert {each.name for each in it.strata} == {"decile_0", "decile_1", "decile_2", "random"}


def test_two_judges_of_the_same_explanations(db):
    add(db, "engines", {"id": "b2:small", "name": "small one", "provenance": {}})
    two_arms(db, {1: BEST, 2: BEST, 3: FAIR}, {})
    for latent, values in ((1, FAIR), (2, FAIR), (3, FAIR)):
        own = make_explanation(examples_of(latent), "a")
        judge(db, own, examples_of(latent), values, model_id="b2:small")
    controls_for(db, {7: list(SHIFT), 8: list(SHIFT)}, on=(1, 2, 3))
    controls_for(db, {7: BEST, 8: BEST}, on=(1, 2, 3), model_id="b2:small")
    both = found(db, "llm,judge=e", "llm,judge=small")
    it = both["detection", "raw"]
    assert it.models == ("e", "small one")
    assert it.means == paired(np.array([1, 1, 7 / 9]), np.array([7 / 9] * 3))
    # Each side less its own judge's controls: FAIR − BEST is 0, 0, −.5 against 0, 1, 1.
    assert both["detection", "relative"].means.second.value == pytest.approx(1 / 9)


def test_a_judge_on_one_side_is_that_of_both(db):
    add(db, "engines", {"id": "b2:small", "name": "small one", "provenance": {}})
    two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR})
    two_arms(db, {1: FAIR, 2: FAIR}, {1: FAIR, 2: FAIR}, model_id="b2:small")
    assert len({name for name, _ in found(db)}) == 2
    (it,) = found(db, "llm,judge=small", "token_list", variant="raw").values()
    assert it.models == ("small one", "small one")
    assert it.means.difference.value == 0


def test_only_what_both_were_judged_by_is_compared(db):
    two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR})
    own = make_explanation(examples_of(1), "a")
    judge(db, own, examples_of(1), BEST, "embedder", scorer="embedding", model_id=EMBEDDER)
    judge(db, own, examples_of(1), BEST, settings={"list": 5}, id="b2:lists")
    assert set(found(db)) == {("detection", "raw"), ("detection", "relative")}
    assert set(found(db, scorer="detection", variant="raw")) == {("detection", "raw")}
    with pytest.raises(UsageError, match="no such scorer judged both: detektion") as error:
        found(db, scorer="detektion")
    assert "`detection`" in error.value.hint


def test_intruders_are_not_compared(db):
    two_arms(db, {1: BEST, 2: BEST}, {1: BEST, 2: BEST})
    own = make_explanation(examples_of(1), "a")
    trial = tiny_results.make_trial(own, examples_of(1), BEST, scorer="intruder", id="b2:i")
    trials.store_trials(db, [(replace(trial, explanation_id=None), tiny_results.USAGE)], "engine")
    assert {name for name, _ in found(db)} == {"detection"}


def test_chosen_explanations_are_an_arm(db):
    two_arms(db, {1: BEST, 2: FAIR, 3: BEST}, {1: FAIR, 2: FAIR, 3: FAIR})
    first = arm_of(db, ["b2:a1", "b2:a3"])
    second = arm_of(db, ["b2:b1", "b2:b3"], ENGINE)
    (it, _) = compare(Judged(db), first, second)
    assert [each.latent for each in it.latents] == [1, 3]
    assert it.means.difference.value == pytest.approx(2 / 9)


def test_a_file_is_read_once(db, monkeypatch):
    two_arms(db, *draw(3))
    judged, arms = Judged(db), load_arms(db)
    first = compare(judged, *arms)
    calls = []
    monkeypatch.setattr(trials, "load_trials", lambda *arguments: calls.append(arguments))
    assert compare(judged, *arms) == first
    assert not calls


def test_the_first_explanation_of_a_latent_counts(db):
    two_arms(db, {1: BEST, 2: BEST}, {1: FAIR, 2: FAIR})
    examples = examples_of(1)
    judge(db, explain(db, examples, "z"), examples, FAIR)
    assert raw(db).latents[0].numbers.first == 1
    assert load_arms(db)[0].explanations[1] == "b2:a1"
