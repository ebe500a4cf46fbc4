"""What people's ratings say: agreement, right answers, against scorers, how many more."""

import io
import json
import math
import unicodedata

import krippendorff
import numpy as np
import pytest
import tiny_report
from documented import check_records
from rich.cells import cell_len
from rich.console import Console
from scipy.stats import norm, pearsonr, spearmanr
from tiny_results import CACHE, ENGINE
from tiny_score_rows import EVIL, intruder_row, score_row
from typer.testing import CliRunner

from lite_interp import correlations, stats
from lite_interp.cli import app
from lite_interp.db import ratings, studies
from lite_interp.db.file import open_results, read_results
from lite_interp.db.rated import RatedVerdict, rated_verdicts
from lite_interp.db.trials import load_scores
from lite_interp.errors import UsageError
from lite_interp.ids import generator
from lite_interp.raters import people_agree, people_page, people_rows
from lite_interp.raters.asked import Asked, load_asked
from lite_interp.raters.intervals import (
    correlation,
    difference,
    more_by_root,
    more_for_spearman,
    over_latents,
    share,
    spearman_interval,
)
from lite_interp.raters.reliability import alpha_of, reliability, value_counts
from lite_interp.raters.scorers import PAPER, with_judges, with_scorers, within
from lite_interp.raters.study import check_width
from lite_interp.records import Estimate, Question, Rating
from lite_interp.score import SCORERS
from lite_interp.ways import way_names

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", C and E: 4 observers, 12 units.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def asked(latent, answers, task="explanation", place=0, right=None, **settings):
    """A question about one latent; answers are a list, one a person, None = not given."""
    explanation = None if task == "intruder" else f"b2:llm{latent}"
    window = None if task == "explanation" else f"b2:w{place}"
    item = f"q{place}" if task == "intruder" else ""
    question = Question(task, explanation, f"b2:set{latent}", settings, window, item, right)
    given = {
        name: value for name, value in zip("abcdefgh", answers, strict=False) if value is not None
    }
    return Asked(question, latent, given)


def columns(rows):
    """One question a column of a table of people's answers, each about another latent."""
    return [asked(latent, answers) for latent, answers in enumerate(zip(*rows, strict=True))]


def only(found):
    (one,) = found
    return one


# alpha


def test_alpha_is_that_of_krippendorffs_example():
    counts = value_counts(
        [[v for v in unit if v is not None] for unit in zip(*PUBLISHED, strict=True)]
    )
    assert alpha_of(counts, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert alpha_of(counts, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_alpha_by_hand():
    # Two raters, three questions: 11, 22, 12. Observed disagreement 2/6; 1 and 2 thrice each:
    # expected 2·3·3/(6·5) = 0.6; alpha = 1 − (1/3)/0.6 = 4/9.
    assert alpha_of(value_counts([[1, 1], [2, 2], [1, 2]]), "nominal") == pytest.approx(4 / 9)


def test_ratings_are_ordinal_and_answers_may_be_missing():
    found = only(reliability(columns(PUBLISHED), 0.2))
    assert found.alpha.value == pytest.approx(0.815, abs=5e-4)
    assert (found.n_raters, found.n_answers, found.n_questions) == (4, 41, 12)
    assert (found.n_shared, found.n_latents, found.reason) == (11, 12, "")
    assert found.alpha.low < found.alpha.value <= found.alpha.high
    assert found.right == ()
    # One answer alone says nothing of agreement.
    more = [*columns(PUBLISHED), asked(20, [4])]
    assert only(reliability(more, 0.2)).alpha == found.alpha


def test_yes_and_no_are_nominal():
    table = [[1, 0, 1, 1, 0], [1, 0, 0, 1, 0]]
    questions = [
        asked(n, pair, "detection", right=1) for n, pair in enumerate(zip(*table, strict=True))
    ]
    expected = krippendorff.alpha(np.array(table, float), level_of_measurement="nominal")
    assert only(reliability(questions, 0.2)).alpha.value == pytest.approx(expected)


def test_perfect_agreement_is_1_and_has_no_interval():
    found = only(reliability(columns([[1, 2, 3, 4, 2], [1, 2, 3, 4, 2]]), 0.2))
    assert found.alpha.value == 1
    assert math.isnan(found.alpha.low)
    assert (found.n_more, found.reason) == (None, "latents all alike")


def test_random_answers_agree_as_by_chance():
    random = np.random.default_rng(3)
    found = only(reliability(columns(random.integers(1, 5, size=(3, 400)).tolist()), 0.2))
    assert found.alpha.value == pytest.approx(0, abs=0.08)
    assert found.alpha.low < 0 < found.alpha.high
    assert found.n_more == 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1, 2, 3]], "one rater"),
        ([[1, None], [None, 2]], "no shared question"),
        ([[2, 2, 2], [2, 2, 2]], "all answers equal"),
    ],
)
def test_where_there_is_no_alpha_it_is_said_why(rows, reason):
    found = only(reliability(columns(rows), 0.2))
    assert math.isnan(found.alpha.value)
    assert (found.reason, found.n_more) == (reason, None)


def test_one_latent_has_no_interval():
    one = [
        asked(1, pair, "detection", place, 1) for place, pair in enumerate([(1, 1), (0, 1), (0, 0)])
    ]
    found = only(reliability(one, 0.2))
    assert math.isnan(found.alpha.low)
    assert found.reason == "one latent"


def test_undefined_resamples_are_left_out_and_where_they_are_most_there_is_no_interval():
    def drawn(undefined):
        def statistic(rows):
            return math.nan if undefined(set(rows.tolist())) else float(rows.sum())

        return over_latents(np.arange(4), statistic, generator(0))

    assert drawn(lambda rows: rows == {0}).low < 6 < drawn(lambda rows: rows == {0}).high
    mostly = drawn(lambda rows: len(rows) < 4)
    assert mostly.value == 6
    assert math.isnan(mostly.low)
    assert math.isnan(drawn(lambda rows: True).value)


def test_a_latents_questions_are_drawn_together():
    # Ten questions about each of six latents, all alike within: six things were seen, not sixty.
    pairs = [(1, 1), (0, 1), (1, 1), (0, 0), (1, 0), (0, 0)]
    bunched = [asked(latent, pair, "detection", place, 1)
               for latent, pair in enumerate(pairs) for place in range(10)]  # fmt: skip
    apart = [each._replace(latent=number) for number, each in enumerate(bunched)]
    wide, narrow = (only(reliability(each, 0.2)) for each in (bunched, apart))
    assert wide.alpha.value == narrow.alpha.value
    assert wide.alpha.high - wide.alpha.low > 2 * (narrow.alpha.high - narrow.alpha.low)
    assert wide.right[0].share.value == narrow.right[0].share.value
    widths = [each.right[0].share.high - each.right[0].share.low for each in (wide, narrow)]
    assert widths[0] > 2 * widths[1]


def test_the_interval_of_alpha_holds_the_true_one():
    def draw(random, n):
        meant = random.normal(size=n)
        said = np.digitize(meant[:, None] + random.normal(0, 0.7, (n, 2)), [-0.8, 0, 0.8])
        return (said[..., None] == np.arange(4)).sum(axis=1)

    random = np.random.default_rng(5)
    truth = alpha_of(draw(random, 50_000), "ordinal")
    held = 0
    for trial in range(60):
        counts = draw(random, 25)
        found = over_latents(
            np.arange(25), lambda rows, c=counts: alpha_of(c[rows], "ordinal"), generator(trial)
        )
        held += found.low <= truth <= found.high
    assert held >= 52  # of 60; 57 expected


# right answers


def test_right_answers_of_all_and_of_each_with_chance():
    questions = [
        asked(latent, answers, "intruder", place, 3, n_choices=4)
        for latent in range(5)
        for place, answers in enumerate([(3, 3), (3, 1), (None, 2)])
    ]
    found = only(reliability(questions, 0.2))
    assert found.chance == 0.25
    assert [(each.rater, each.n) for each in found.right] == [(None, 25), ("a", 10), ("b", 15)]
    assert [each.share.value for each in found.right] == pytest.approx([15 / 25, 1, 1 / 3])
    everything = found.right[1].share
    # All right about five latents: as if each had been asked about once.
    assert everything.high == 1
    assert 0.3 < everything.low < 0.6


def test_chance_is_a_half_or_a_fifth():
    def chance(task, **settings):
        return only(reliability([asked(1, [1], task, right=1, **settings)], 0.2)).chance

    assert chance("detection") == chance("fuzzing") == 0.5
    assert chance("intruder") == chance("intruder", n_choices=EVIL) == 0.2
    assert math.isnan(only(reliability([asked(1, [1])], 0.2)).chance)


@pytest.mark.parametrize(("mean", "n_latents"), [(0.6, 8), (0.9, 15)])
def test_the_interval_of_a_share_allows_for_bunches(mean, n_latents):
    random = np.random.default_rng(1)
    held, naive = 0, 0
    for _ in range(400):
        chances = random.beta(6 * mean, 6 * (1 - mean), n_latents)
        right = (random.random((n_latents, 8)) < chances[:, None]).ravel().astype(float)
        latents = np.repeat(np.arange(n_latents), 8)
        found = share(latents, right[None], np.ones((1, right.size)), right.size)
        held += found.low <= mean <= found.high
        plain = stats.wilson(int(right.sum()), right.size)
        naive += plain.low <= mean <= plain.high
    assert held >= 372  # 93 %
    assert naive < 352  # 88 %


def test_latents_with_one_answer_each_have_nearly_wilsons_interval():
    right = np.array([1.0] * 150 + [0.0] * 50)
    found = share(np.arange(200), right[None], np.ones((1, 200)), 200)
    assert tuple(found) == pytest.approx(tuple(stats.wilson(150, 200)), abs=2e-3)


def test_a_difference_is_paired_and_holds_the_true_one():
    random = np.random.default_rng(2)
    latents, held = np.repeat(np.arange(12), 5), 0
    for _ in range(300):
        chances = np.repeat(random.uniform(0.3, 0.9, 12), 5)
        people = (random.random(60) < chances).astype(float)
        judge = (random.random(60) < chances - 0.2).astype(float)
        found = difference(latents, people, judge)
        held += found.low <= -0.2 <= found.high
    assert held >= 273  # 91 %
    same = difference(latents, np.ones(60), np.ones(60))
    assert same.value == 0
    assert math.isnan(same.low)


def test_the_interval_of_an_area_allows_for_latents_that_differ():
    random = np.random.default_rng(3)
    apart = random.normal(1, 0.8, 100_000)
    truth = float(norm.cdf(apart / math.sqrt(2)).mean())
    latents, wanted = np.repeat(np.arange(10), 12), np.tile([True, False], 60)
    held = 0
    for _ in range(200):
        margins = random.normal(size=120) + wanted * np.repeat(random.normal(1, 0.8, 10), 12)
        found = within(latents, latents, wanted, margins)
        held += found.low <= truth <= found.high
    assert held >= 182  # 91 %


# against scorers


def rated(numbers):
    return [asked(latent, [number]) for latent, number in enumerate(numbers)]


def compared(questions, rows, variant="raw", width=0.2):
    return with_scorers(questions, rows, way_names(rows), variant, width)


def test_a_planted_relation_is_found_and_a_shuffled_one_is_not():
    random = np.random.default_rng(0)
    meant = random.normal(size=60)
    numbers = np.clip(np.round(2.5 + meant + random.normal(0, 0.4, 60)), 1, 4)
    values = 0.7 + 0.1 * meant + random.normal(0, 0.03, 60)
    rows = [score_row(n, value=float(v)) for n, v in enumerate(values)]
    there = only(compared(rated(numbers), rows))
    assert (there.scorer, there.n, there.paper) == ("detection", 60, 0.59)
    assert there.spearman.value == pytest.approx(spearmanr(numbers, values)[0])
    assert there.pearson.value == pytest.approx(pearsonr(numbers, values)[0])
    assert there.spearman.low > 0.6
    assert there.n_more == more_for_spearman(there.spearman, 60, 0.2)
    held = 0
    for _ in range(60):
        rows = [score_row(n, value=float(v)) for n, v in enumerate(random.permutation(values))]
        none = only(compared(rated(numbers), rows))
        held += none.spearman.low < 0 < none.spearman.high
        assert none.n_more > there.n_more
    assert held >= 52  # 57 expected


def test_the_mean_over_people_is_held_against_the_score():
    table = [(1, 3), (2, None), (4, 4), (3, 4), (1, 1)]
    values = [0.6, 0.5, 0.9, 0.8, 0.55]
    rows = [score_row(n, value=v) for n, v in enumerate(values)]
    found = only(compared([asked(n, pair) for n, pair in enumerate(table)], rows))
    assert found.pearson.value == pytest.approx(pearsonr([2, 2, 4, 3.5, 1], values)[0])


def test_every_way_and_only_the_variant_and_the_same_windows_count():
    numbers = [1, 2, 3, 4, 2, 3]
    rows = []
    for latent in range(6):
        value = 0.5 + latent / 20
        rows += [
            score_row(latent, value=value),
            score_row(latent, value=value, variant="relative"),
            score_row(latent, value=value, settings='{"list":5}'),
            score_row(latent, "fuzzing", value=value, example_set_id="b2:elsewhere"),
            score_row(latent, "fuzzing", value=value, explanation_id="b2:other"),
            intruder_row(latent, value),
        ]
    rows[0]["value"] = None
    found = compared(rated(numbers), rows)
    assert [(each.scorer, each.n) for each in found] == [
        ("detection", 5), ("detection@list=5", 6), ("fuzzing", 0), ("intruder", 6),
    ]  # fmt: skip
    assert found[2].reason == "below 4 latents"
    assert [each.scorer for each in compared(rated(numbers), rows, "relative")] == ["detection"]
    equal = compared(rated([2] * 6), rows)
    assert equal[1].reason == "all equal"
    assert equal[1].n_more is None


def test_the_papers_numbers_are_of_known_scorers():
    assert set(PAPER) < set(SCORERS)
    assert [*PAPER.values()] == [0.69, 0.60, 0.59, 0.34, 0.32]


def test_right_answers_are_held_against_the_same_scorer_where_there_are_four():
    random = np.random.default_rng(4)
    values = np.linspace(0.5, 1, 10)
    questions = [
        asked(latent, [int(random.random() < value)], task, place, 1)
        for task in ("detection", "intruder")
        for latent, value in enumerate(values)
        for place in range(20 if latent else 3)
    ]
    rows = [score_row(n, value=float(v)) for n, v in enumerate(values)]
    rows += [score_row(n, "fuzzing", value=float(v)) for n, v in enumerate(values)]
    rows += [intruder_row(n, float(v)) for n, v in enumerate(values)]
    found = compared(questions, rows)
    assert [(each.task, each.scorer, each.n) for each in found] == [
        ("detection", "detection", 9), ("intruder", "intruder", 9),
    ]  # fmt: skip
    assert all(each.spearman.value > 0.5 and each.paper is None for each in found)


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_one_explanation_a_latent_is_what_correlations_knows(kind):
    random = np.random.default_rng(6)
    x = random.integers(1, 5, 30).astype(float)
    y = x + random.normal(size=30)
    ours = correlation(np.arange(30), x, y, kind, generator(0, kind))
    theirs = correlations.correlation(x, y, kind, generator(0, kind))
    assert tuple(ours) == pytest.approx(tuple(theirs), abs=1e-9)


@pytest.mark.parametrize(("kind", "slow"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_explanations_of_one_latent_are_drawn_together(kind, slow):
    random = np.random.default_rng(7)
    latents = np.sort(random.integers(0, 9, 25))
    x, y = random.integers(1, 5, 25).astype(float), random.normal(size=25)
    names = np.unique(latents)
    draws = generator(0).integers(len(names), size=(1000, len(names)))
    rows = [np.concatenate([np.flatnonzero(latents == names[n]) for n in draw]) for draw in draws]
    expected = np.percentile([slow(x[row], y[row])[0] for row in rows], [2.5, 97.5])
    found = correlation(latents, x, y, kind, generator(0))
    assert found.value == pytest.approx(slow(x, y)[0])
    assert [found.low, found.high] == pytest.approx(expected.tolist(), abs=1e-9)


# against judges


def verdict(each, value, settings="{}", active=None, detail=None, model=ENGINE):
    question = each.question
    right = bool(question.right_answer) if active is None else active
    ids = (*each.of, question.window_id, question.item)
    return RatedVerdict(question.task, settings, model, *ids, right, value, detail)


def judged(questions, verdicts):
    return with_judges(questions, verdicts, way_names(each._asdict() for each in verdicts))


def test_the_judge_and_people_on_the_same_items():
    random = np.random.default_rng(8)
    questions, verdicts = [], []
    for latent in range(6):
        for place in range(10):
            right = place % 2
            answers = [right if random.random() < 0.8 else 1 - right for _ in range(3)]
            each = asked(latent, answers, "detection", place, right)
            questions.append(each)
            # Of each explanation all margins are moved by its own amount.
            verdicts.append(verdict(each, right + random.normal() + 9.0 * latent))
    unanswered = verdict(asked(0, [1], "detection", 99, 1), -5.0)
    found = only(judged(questions, [*verdicts, unanswered]))
    assert (found.task, found.scorer, found.n, found.n_latents) == ("detection", "detection", 60, 6)
    margins = np.array([each.value for each in verdicts]).reshape(6, 10)
    truth = np.array([each.active for each in verdicts]).reshape(6, 10)
    areas = [stats.auroc(*pair) for pair in zip(truth, margins, strict=True)]
    assert found.judge.value == pytest.approx(np.mean(areas))  # 25 pairs of each latent
    yes = np.array([np.mean([*each.answers.values()]) for each in questions]).reshape(6, 10)
    balanced = (yes[truth].mean() + 1 - yes[~truth].mean()) / 2
    assert found.people.value == pytest.approx(balanced)
    said = yes > 0.5
    wins = [stats.auroc(*pair) for pair in zip(said, margins, strict=True)]
    weights = said.sum(axis=1) * (~said).sum(axis=1)
    assert found.alike.value == pytest.approx(np.average(wins, weights=weights))
    assert found.n_alike == 60
    for estimate in (found.people, found.judge, found.alike):
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    assert math.isnan(found.difference.value)


def test_a_tie_among_people_is_no_majority():
    table = [(1, 0), (1, 1), (0, 0), (1, 1), (0, 0)]
    questions = [asked(n % 2, pair, "fuzzing", n, pair[0]) for n, pair in enumerate(table)]
    found = only(judged(questions, [verdict(each, float(n)) for n, each in enumerate(questions)]))
    assert (found.n, found.n_alike) == (5, 4)
    # Half of the people were right about the first.
    assert found.people.value == pytest.approx((2.5 / 3 + 1) / 2)


def test_items_that_are_not_the_same_are_not_joined():
    marks = {"marks": "activating", "threshold": 0.3}
    questions = [asked(n % 3, [n % 2], "fuzzing", n, n % 2, **marks) for n in range(12)]
    same = [verdict(each, 1.0, json.dumps(marks)) for each in questions]
    other = [verdict(each, 1.0, json.dumps({**marks, "marks": "paper"})) for each in questions]
    broken = [verdict(each, 1.0, "{") for each in questions]
    wrong = [verdict(each, 1.0, '{"x":1}', not each.question.right_answer) for each in questions]
    found = judged(questions, [*same, *other, *broken, *wrong])
    assert [(each.scorer, each.n) for each in found] == [
        ("fuzzing@marks=activating,threshold=0.3", 12)
    ]


def test_intruders_are_paired_by_question():
    questions, verdicts = [], []
    for latent in range(5):
        for place in range(4):
            each = asked(latent, [2, 2 if place else 5], "intruder", place, 2, n_choices=5)
            questions.append(each)
            chosen = 2 if place > latent % 2 else 5
            detail = {"place": 2, "chosen": chosen}
            verdicts.append(verdict(each, float(chosen == 2), detail=detail))
    moved = verdict(asked(0, [2], "intruder", 9, 2), 1.0, detail={"place": 4, "chosen": 4})
    questions.append(asked(0, [2], "intruder", 9, 2))
    found = only(judged(questions, [*verdicts, moved, verdict(questions[0], 1.0, '{"a":1}')]))
    assert (found.n, found.n_latents) == (20, 5)
    assert found.people.value == pytest.approx(0.875)
    # The judge finds all but the first of even latents, and all but the first two of odd ones.
    assert found.judge.value == pytest.approx((3 * 3 + 2 * 2) / 20)
    assert found.difference.value == pytest.approx(0.65 - 0.875)
    assert -1 < found.difference.low < -0.225 < found.difference.high < 0
    # Of the first question each place has one of the two people; of the others all say 2.
    assert found.alike.value == pytest.approx((5 * 0.5 + 13) / 20)


def test_items_of_different_explanations_are_not_compared():
    latents = np.repeat(np.arange(4), 2)
    wanted = np.tile([True, False], 4)
    margins = np.array([1, 0, 11, 10, 21, 20, 30, 31], float)
    assert within(latents, latents, wanted, margins).value == 0.75
    assert within(latents, np.zeros(8, int), wanted, margins).value == pytest.approx(
        stats.auroc(wanted, margins)
    )
    one_kind = within(latents, latents, np.ones(8, bool), margins)
    nobody = within(latents[:0], latents[:0], wanted[:0], margins[:0])
    assert math.isnan(one_kind.value)
    assert math.isnan(nobody.value)


# how many more


def test_the_interval_is_that_of_bonett_and_wright():
    # The example of `ci.spear` in Bonett's R package statpsych.
    y = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19]
    x = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51]
    r = spearmanr(x, y)[0]
    assert r == pytest.approx(0.8699639)
    assert spearman_interval(r, 15) == pytest.approx((0.5840951, 0.9638297), abs=1e-6)


@pytest.mark.parametrize("r", [-0.7, 0.0, 0.3, 0.69, 0.95])
@pytest.mark.parametrize("width", [0.05, 0.2, 0.5, 1.9])
def test_so_many_more_are_the_fewest_that_do(r, width):
    def wide(n):
        low, high = spearman_interval(r, n)
        return high - low

    found = Estimate(r, math.nan, math.nan)
    n = 10 + more_for_spearman(found, 10, width)
    assert wide(n) < width
    assert n == 10 or wide(n - 1) >= width
    assert more_for_spearman(found, n, width) == 0
    assert more_for_spearman(found, n + 7, width) == 0
    assert more_for_spearman(found, n - 1, width) == (1 if n > 10 else 0)


def test_pairs_that_come_in_bunches_are_worth_less():
    by_formula = spearman_interval(0.5, 200)
    assert more_for_spearman(Estimate(0.5, *by_formula), 200, 0.25) == 0
    # Twice as wide needs four times the pairs: 0.5 is not narrow, whatever the formula says of 200.
    low, high = (0.5 + 2 * (end - 0.5) for end in by_formula)
    n = 200 + more_for_spearman(Estimate(0.5, low, high), 200, 0.25)
    at_once = 10 + more_for_spearman(Estimate(0.5, math.nan, math.nan), 10, 0.25)
    assert n - 3 == 4 * (at_once - 3)
    # A narrower one, by luck, does not make it fewer.
    assert more_for_spearman(Estimate(0.5, 0.49, 0.51), 10, 0.25) == at_once - 10


def test_so_many_more_bunches_are_about_that_narrow():
    def interval(trial, n_latents):
        random = np.random.default_rng(trial)
        latents = np.repeat(np.arange(n_latents), 10)
        x, y = random.normal(size=(2, n_latents))[:, latents]
        x, y = x + 0.3 * random.normal(size=len(x)), x + y + 0.3 * random.normal(size=len(x))
        return correlation(latents, x, y, "spearman", generator(trial))

    found = [interval(trial, 20) for trial in range(20)]
    wanted = [200 + more_for_spearman(each, 200, 0.3) for each in found]
    n = round(float(np.median(wanted)) / 10)
    widths = [each.high - each.low for each in (interval(trial, n) for trial in range(20))]
    assert n > 50
    assert np.mean(widths) == pytest.approx(0.3, rel=0.15)


def test_with_so_many_more_intervals_are_about_that_narrow():
    random = np.random.default_rng(9)
    n = 20 + more_for_spearman(Estimate(0.6, math.nan, math.nan), 20, 0.3)
    # Spearman's of a normal pair with Pearson's r is 6/π arcsin(r/2).
    pearson = 2 * math.sin(math.pi * 0.6 / 6)
    widths = []
    for trial in range(40):
        x, noise = random.normal(size=(2, n))
        y = pearson * x + math.sqrt(1 - pearson**2) * noise
        found = correlation(np.arange(n), x, y, "spearman", generator(trial))
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(0.3, rel=0.1)


def test_what_is_undefined_needs_nobody_knows_how_many():
    for r in (math.nan, 1.0, -1.0):
        assert more_for_spearman(Estimate(r, math.nan, math.nan), 5, 0.2) is None
    assert more_by_root(Estimate(0.5, math.nan, math.nan), 5, 0.2) is None


def test_a_width_goes_with_the_root_of_the_answers():
    assert (
        more_by_root(Estimate(0.5, 0.3, 0.7), 25, 0.2) == 76
    )  # 100 would be as wide, not narrower
    assert more_by_root(Estimate(0.5, 0.45, 0.6), 25, 0.2) == 0


@pytest.mark.parametrize("width", [0.0, -1.0, 2.1, math.nan, math.inf])
def test_a_width_that_no_interval_has_is_refused(width):
    with pytest.raises(UsageError, match="not a width"):
        check_width(width)


# in the file


@pytest.fixture(autouse=True)
def own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_report.make_results(tmp_path_factory.mktemp("people") / "results.db", n_latents=8)


@pytest.fixture
def unrated(whole, tmp_path):
    path = tmp_path / "results.db"
    path.write_bytes(whole.read_bytes())
    return path


@pytest.fixture
def results(unrated):
    """Two people have rated eight explanations and answered items of six."""
    with open_results(unrated) as db:
        rate_all(db, ("anna", "ben"))
    return unrated


def rate_all(db, raters):
    llm = [each for each in studies.load_explanations(db, CACHE) if each.explainer == "llm"]
    for each in llm:
        db.execute("update scores set value = ? where explanation_id = ?",
                   [0.5 + each.latent / 20, each.id])  # fmt: skip
        for number, rater in enumerate(raters):
            question = Question("explanation", each.id, each.example_set_id, {})
            store(db, question, rater, min(1 + (each.latent + number) // 2, 4))
    for each in llm[:6]:
        examples = studies.load_example_set(db, each.example_set_id)
        for task in ("detection", "fuzzing", "intruder"):
            scorer = SCORERS[task]
            for place, item in enumerate(scorer.items(examples, scorer.settings, None)):
                right = 2 if task == "intruder" else int(item.active)
                of = None if task == "intruder" else each.id
                question = Question(
                    task, of, examples.id, dict(scorer.settings), item.window.id, item.name, right
                )
                for number, rater in enumerate(raters):
                    wrong = 1 if task == "intruder" else 1 - right
                    store(db, question, rater, wrong if (place + number) % 4 == 0 else right)


def store(db, question, rater, answer):
    name = ratings.rating_id(rater, question)
    ratings.store_rating(
        db, Rating(name, rater, question, answer, 1.0, "2026-01-01T00:00:00+00:00")
    )


def people(path, **options):
    with read_results(path) as db:
        return people_agree(db, CACHE, load_scores(db, CACHE), **options)


def printed(found, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(people_page(found))
    return console.file.getvalue()


def call(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert not done.exception, done.output
    return done.output


def test_verdicts_of_the_same_items_are_joined(results):
    with read_results(results) as db:
        verdicts = rated_verdicts(db, CACHE)
        known = {
            (scorer, *ids): value
            for scorer, *ids, value in db.execute(
                """select scorer, explanation_id, example_set_id, window_id, item, value
                   from trials join verdicts on trial_id = id where control = 0"""
            )
        }
        asked_about = {
            (each.question.task, *each.of, each.question.window_id, each.question.item)
            for each in load_asked(db, CACHE)
            if each.question.window_id
        }
    found = {
        (
            each.scorer,
            each.explanation_id,
            each.example_set_id,
            each.window_id,
            each.item,
        ): each.value
        for each in verdicts
    }
    assert len(found) == len(verdicts) > 100
    assert found.keys() == asked_about
    assert all(known[key] == value for key, value in found.items())


def test_everything_comes_from_the_file(results):
    found = people(results)
    assert [each.task for each in found.tasks] == [
        "explanation",
        "detection",
        "fuzzing",
        "intruder",
    ]
    assert [each.n_raters for each in found.tasks] == [2, 2, 2, 2]
    rating = {each.scorer: each for each in found.scorers if each.task == "explanation"}
    assert set(rating) == {"detection", "fuzzing", "simulation", "intruder"}
    assert rating["detection"].n == 8
    assert rating["detection"].spearman.value > 0.9
    judges = {each.task: each for each in found.judges}
    assert judges["detection"].n == 60
    assert judges["detection"].n_latents == 6
    assert judges["intruder"].n > 10
    own = {each.task: each.right[0].share.value for each in found.tasks if each.right}
    assert judges["intruder"].people.value == pytest.approx(own["intruder"])


def test_one_explainer_only(results):
    with open_results(results) as db:
        words = [each for each in studies.load_explanations(db, CACHE) if each.explainer != "llm"]
        for each in words:
            store(db, Question("explanation", each.id, each.example_set_id, {}), "anna", 4)
    assert people(results).tasks[0].n_questions == 8 + len(words)
    assert people(results, explainer="llm").tasks[0].n_questions == 8
    of_words = people(results, explainer="token_list")
    assert [each.task for each in of_words.tasks] == ["explanation", "intruder"]
    assert of_words.tasks[0].n_questions == len(words)
    assert "explanations by llm only" in printed(people(results, explainer="llm"))


def test_latents_made_by_rule_are_left_out(results):
    before = people(results)
    with open_results(results) as db:
        db.execute("update example_sets set latent = -1 where latent = 7")
    assert people(results).tasks[0].n_questions == before.tasks[0].n_questions - 1


def test_where_nobody_rated_nothing_is_said(unrated):
    found = people(unrated)
    assert (found.tasks, people_rows(found), printed(found)) == ((), [], "")
    out = call("agree", unrated)
    assert "people" not in out
    rows = [json.loads(line) for line in call("agree", unrated, "--json").splitlines()]
    assert {row["kind"] for row in rows} == {"scorers"}


def test_the_command_shows_people_below_the_scorers(results):
    out = call("agree", results)
    lines = out.splitlines()
    assert lines[0].startswith("explanations by llm, 8 latents")
    place = next(n for n, line in enumerate(lines) if line.startswith("people: "))
    assert any(line.startswith("paper: arXiv 2410.13928, tables") for line in lines[:place])
    assert "narrower than 0.2" in lines[place]
    assert max(map(cell_len, lines)) <= 80
    assert "narrower than 0.05" in call("agree", results, "--width", "0.05")
    refused = CliRunner().invoke(app, ["agree", str(results), "--width", "0"])
    assert refused.exit_code == 2
    assert "not a width of an interval: 0" in refused.stderr


def test_json_has_a_kind_and_none_where_there_is_nothing(results):
    rows = check_records("agree", call("agree", results, "--json"))
    kinds = {row["kind"] for row in rows}
    assert kinds == {"scorers", "raters", "people_scorer", "people_judge"}
    for kind in kinds:
        assert len({tuple(row) for row in rows if row["kind"] == kind}) == 1, kind
    of_people = [row for row in rows if row["kind"] == "raters"]
    assert [(row["task"], row["rater"]) for row in of_people][:3] == [
        ("explanation", None), ("detection", None), ("detection", "anna"),
    ]  # fmt: skip
    assert of_people[0]["right"] is None
    assert of_people[1]["chance"] == 0.5
    assert of_people[2]["alpha"] is None
    assert of_people[2]["n_answers"] == 60
    by_scorer = {row["scorer"]: row for row in rows if row["kind"] == "people_scorer"
                 and row["task"] == "explanation"}  # fmt: skip
    assert by_scorer["detection"]["spearman_paper"] == 0.59
    assert by_scorer["intruder"]["spearman_paper"] is None
    assert "NaN" not in json.dumps(rows)


def harmless(text):
    return not any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\n"
        for character in text
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_and_sends_nothing_but_text(results, width):
    with open_results(results) as db:
        rate_all(db, (EVIL, "[bold]b[/]" * 30, "年" * 50))
        db.execute("update trials set settings = ? where scorer = 'detection'",
                   [json.dumps({EVIL: EVIL, "list": 5})])  # fmt: skip
        db.execute("update scores set settings = ? where scorer = 'detection'",
                   [json.dumps({EVIL: EVIL, "list": 5})])  # fmt: skip
    found = people(results)
    out = printed(found, width)
    assert harmless(out)
    assert "[bold]b[/]" in out
    lines = out.splitlines()
    assert max(map(cell_len, lines)) <= width
    n_rows = len(found.tasks) + sum(len(each.right) for each in found.tasks) + len(found.scorers)
    n_rows += sum(4 if each.task == "intruder" else 3 for each in found.judges)
    # No row is folded: a heading, four heads of tables, three lines between, two sources.
    assert len(lines) == n_rows + 1 + 4 + 3 + 2
    texts = [
        value for row in people_rows(found) for value in row.values() if isinstance(value, str)
    ]
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for text in texts for c in text)


def test_ways_to_judge_keep_their_names(results):
    with open_results(results) as db:
        db.execute("""update trials set settings = ? where scorer = 'detection' and example_set_id
                   in (select id from example_sets where latent % 2)""",
                   [json.dumps({"list": 5})])  # fmt: skip
    names = {each.scorer for each in people(results).judges if each.task == "detection"}
    assert len(names) == 2
    assert "detection" in names


def test_the_same_file_gives_the_same_numbers(results):
    assert repr(people(results)) == repr(people(results))


def test_answers_that_no_one_could_give_break_nothing(results):
    with open_results(results) as db:
        db.execute("update ratings set answer = 99 where rater = 'ben'")
        db.execute("update ratings set right_answer = null where task = 'fuzzing'")
        db.execute("update verdicts set detail = '[1]' where item like 'q%'")
    found = people(results)
    assert printed(found)
    assert not [each for each in found.judges if each.task in ("fuzzing", "intruder")]
