"""Wrong marks have the places of right ones, and are wrong."""

import numpy as np
import pytest
import tiny_marks
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from lite_interp.ids import generator
from lite_interp.score.base import Item, Marked
from lite_interp.score.fuzzing import FUZZING
from lite_interp.score.marks import fitting, marked_row, match, moved, right_marks


def n_runs(marked):
    return int((np.diff(marked.astype(int), prepend=0) == 1).sum())


RULES = {
    "number": lambda marked: marked.sum(),
    "mean": lambda marked: np.flatnonzero(marked).mean(),
    "first": lambda marked: np.flatnonzero(marked)[0],
    "last": lambda marked: np.flatnonzero(marked)[-1],
    "runs": n_runs,
    "longest": lambda marked: max(map(len, "".join("01"[int(m)] for m in marked).split("0"))),
    "hash": lambda marked: generator(0, *np.flatnonzero(marked).tolist()).random(),
    "other hash": lambda marked: generator(1, *np.flatnonzero(marked).tolist()).random(),
}


def area(items: list[Item], rule) -> float:
    """AUROC by counting pairs, in whole numbers, so that one half is exactly that."""
    right = np.array([rule(item.marked) for item in items if item.active], float)
    wrong = np.array([rule(item.marked) for item in items if not item.active], float)
    signs = np.sign(right[:, None] - wrong).astype(int)
    return 0.5 + signs.sum() / (2 * signs.size)


def anywhere(items: list[Item], seed: int) -> list[Item]:
    """The naive way: as many tokens as are right, at random among those that do not fire."""
    draw = np.random.default_rng(seed)
    found = [item for item in items if item.active]
    for item in list(found):
        free = np.flatnonzero(item.window.values == 0)
        marked = np.zeros(len(item.window.tokens), bool)
        marked[draw.choice(free, min(len(free), int(item.marked.sum())), replace=False)] = True
        found.append(Item(item.window, False, item.stratum, item.weight, "wrong", marked))
    return found


def items_of(examples, marks):
    return FUZZING.items(examples, {**FUZZING.settings, "marks": marks}, None)


@pytest.mark.parametrize("marks", ["activating", "paper"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_sees_only_where_marks_stand_scores_one_half(marks, seed, rule):
    items = items_of(tiny_marks.at_random(seed, dense=4), marks)
    assert len(items) > 20
    assert area(items, RULES[rule]) == 0.5


@pytest.mark.parametrize("rule", ["mean", "first", "runs", "longest"])
def test_marks_at_random_places_would_be_found_out(rule):
    """What the test above would say of them: it can fail."""
    areas = []
    for seed in range(6):
        items = anywhere(items_of(tiny_marks.at_random(seed), "activating"), seed)
        areas.append(area(items, RULES[rule]))
    assert all(each != 0.5 for each in areas)
    assert abs(np.mean(areas) - 0.5) > 0.1


@pytest.mark.parametrize("marks", ["activating", "paper"])
@pytest.mark.parametrize("seed", range(4))
def test_wrong_marks_touch_no_firing_and_at_least_one_word(marks, seed):
    for item in items_of(tiny_marks.at_random(seed, dense=4), marks):
        assert item.marked.shape == (len(item.window.tokens),)
        if item.active:
            assert (item.marked == right_marks(item.window, 0.3).marked).all()
            continue
        assert not (item.marked & (item.window.values > 0)).any()
        shown = [t for t, m in zip(item.window.tokens, item.marked, strict=True) if m]
        assert any(character.isalnum() for character in "".join(shown))


@pytest.mark.parametrize("seed", range(4))
def test_fitting_is_what_three_loops_say(seed):
    active, silent = parts(tiny_marks.at_random(seed, dense=4))
    patterns = [right_marks(each, 0.3) for each in active]
    hosts = [*active, *silent]
    found = fitting(patterns, hosts)
    assert found.shape == (len(hosts), len(patterns))
    for row, host in zip(found, hosts, strict=True):
        for said, pattern in zip(row, patterns, strict=True):
            places = [place for place, marked in enumerate(pattern.marked) if marked]
            right = all(place < len(host.tokens) and host.values[place] == 0 for place in places)
            assert said == (right and any(host.tokens[p].strip().isalnum() for p in places))


@pytest.mark.parametrize("seed", range(8))
def test_as_many_patterns_as_can_be_are_matched_and_none_twice(seed):
    active, _ = parts(tiny_marks.at_random(seed, dense=12))
    patterns = [right_marks(each, 0.3) for each in active]
    found = match(patterns, active, generator(seed))
    fit = fitting(patterns, active)
    best = maximum_bipartite_matching(csr_array(fit), perm_type="column")
    assert len(found) == (best >= 0).sum() < len(active)
    assert all(fit[host, pattern] for pattern, host in found)
    assert len({pattern for pattern, _ in found}) == len({host for _, host in found}) == len(found)


def test_the_same_draw_gives_the_same_matches_and_another_one_others():
    active, _ = parts(tiny_marks.at_random(0))
    patterns = [right_marks(each, 0.3) for each in active]
    draws = [match(patterns, active, generator(seed)) for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(map(tuple, draws))) == 3


def test_of_windows_that_fit_one_as_long_is_taken():
    pattern = right_marks(tiny_marks.window([" a", " b", " c", " d"], [0, 0, 1, 0]), 0.3)
    longer = tiny_marks.window([" a", " b", " e", " d", " f"], [0] * 5)
    alike = tiny_marks.window([" k", " l", " m", " n"], [0] * 4)
    for seed in range(5):
        assert match([pattern], [longer, alike, longer], generator(seed)) == [(0, 1)]
        # But rather one that is longer than none.
        both = match([pattern, pattern], [longer, alike], generator(seed))
        assert sorted(host for _, host in both) == [0, 1]


def test_nothing_to_match():
    silent = tiny_marks.window([" a", " b"], [0, 0])
    everywhere = tiny_marks.window([" a", " b"], [1, 1])
    blank = tiny_marks.window([" ", "\n"], [0, 0])
    pattern = right_marks(everywhere, 0.3)
    assert match([], [silent], generator(0)) == match([pattern], [], generator(0)) == []
    assert match([pattern], [everywhere, blank], generator(0)) == []
    assert match([pattern], [everywhere, blank, silent], generator(0)) == [(0, 2)]


def test_a_moved_pattern_keeps_its_places_and_takes_the_length_of_its_host():
    pattern = Marked(
        tiny_marks.window([" a", " b", " c"], [0, 1, 1]), np.array([False, True, True])
    )
    host = tiny_marks.window([" one", " two", "\n", " four", " five"], [0] * 5)
    assert moved(pattern, host).marked.tolist() == [False, True, True, False, False]
    assert marked_row(moved(pattern, host)) == "one <<two↵>> four five"


def parts(examples):
    windows = [placed.window for placed in examples.scored]
    return [w for w in windows if w.peak > 0], [w for w in windows if w.peak == 0]
