import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lite_interp.records import Window
from lite_interp.render import (
    INVISIBLE,
    levels,
    mark,
    marked_text,
    marked_tokens,
    one_row,
    plain_text,
    terminal_safe,
)

texts = st.text(st.characters(exclude_characters="<>"), max_size=6)
strengths = st.just(0.0) | st.floats(2.0**-20, 2.0**20, width=32)


def make_window(tokens, values):
    return Window("b2:0", 0, 0, 0, tuple(tokens), np.array(values, np.float32))


@st.composite
def windows(draw, token=texts):
    tokens = draw(st.lists(token, max_size=12))
    return make_window(tokens, [draw(strengths) for _ in tokens])


def unmark(text):
    return text.replace("<<", "").replace(">>", "")


def test_a_run_of_marked_tokens_is_marked_once_and_the_space_before_it_stays_outside():
    tokens = ["In", " the", " year", " 2", "007", ",", " years"]
    assert mark(tokens, [0, 0, 1, 1, 1, 0, 1]) == "In the <<year 2007>>, <<years>>"


@pytest.mark.parametrize(
    ("tokens", "marked", "expected"),
    [
        ([], [], ""),
        (["a"], [True], "<<a>>"),
        (["a", "b"], [False, False], "ab"),
        ([" a", " b"], [True, False], " <<a>> b"),
        ([" a", " b"], [False, True], " a <<b>>"),
        (["  ", "b"], [True, True], "  <<b>>"),
        ([" "], [True], " <<>>"),
    ],
)
def test_marks_open_and_close_at_the_edges(tokens, marked, expected):
    assert mark(tokens, marked) == expected


def test_a_mark_for_each_token_is_needed():
    with pytest.raises(ValueError):
        mark(["a", "b"], [True])


@given(windows())
def test_a_text_without_its_marks_is_the_plain_text(window):
    assert unmark(marked_text(window)) == plain_text(window)


@given(windows(texts | st.sampled_from(["\r", "\n", "\r\n", " \r"])))
def test_a_line_break_that_is_cut_in_two_reads_the_same_with_and_without_marks(window):
    assert unmark(marked_text(window)) == plain_text(window)


@given(windows())
def test_there_are_as_many_marks_as_runs(window):
    flags = marked_tokens(window.values, 0.3)
    runs = int(flags[:1].sum() + (flags[1:] & ~flags[:-1]).sum())
    text = marked_text(window)
    assert (text.count("<<"), text.count(">>")) == (runs, runs)


def test_tokens_above_three_tenths_of_the_peak_are_marked():
    values = np.array([10.0, 3.0, 3.1, 0.0, 10.0], np.float32)
    assert marked_tokens(values, 0.3).tolist() == [True, False, True, False, True]


def test_the_peak_is_marked_however_high_the_bar_and_a_silent_window_never():
    values = np.array([0.0, 1e-30, 5e-31], np.float32)
    assert marked_tokens(values, 1.0).tolist() == [False, True, False]
    assert not marked_tokens(np.zeros(3, np.float32), 0.0).any()
    assert marked_tokens(np.zeros(0, np.float32), 0.3).tolist() == []


HOSTILE = [
    "\x1b[2J\x1b[31mred",  # clears a terminal
    "\x1b]0;title\x07",  # sets its title
    "\x9b31m",  # the same in one character
    "a\u202eb\u2066c",  # turns the direction of text
    "nul\x00nul",
    "line\nline\r\nline\rline\x0bline\x0cline\x85line\u2028line\u2029line",
    "\x1c\x1d\x1e",  # separators that str.splitlines breaks at
    "tab\tbed",
    "\ud800\udfff",  # halves of surrogate pairs
    "\ufeff\u200b\u00ad",  # what cannot be seen
    "\U000e0041",  # a tag character
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_line_that_can_do_nothing(text):
    for clean in (one_row(text), terminal_safe(text), plain_text(make_window([text], [1.0]))):
        assert len(clean.splitlines()) <= 1
        assert not any(unicodedata.category(each) in ("Cc", "Cs") for each in clean)
        clean.encode()
    assert all(each.isprintable() for each in terminal_safe(text))


def test_line_breaks_can_be_seen_and_the_rest_is_replaced():
    assert one_row("a\nb\r\nc\td\x00e\u2028f") == "a↵b↵c d�e↵f"
    assert terminal_safe("a\nb\u202ec\x1bd") == "a↵b·c�d"


@given(st.text(st.characters()) | st.sampled_from(HOSTILE))
def test_any_text_becomes_one_safe_line(text):
    clean = terminal_safe(text)
    assert len(clean.splitlines()) <= 1
    assert not any(unicodedata.category(each)[0] == "C" for each in clean if each.isprintable())
    assert not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in clean)
    assert terminal_safe(clean) == clean
    assert one_row(one_row(text)) == one_row(text)


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Mn", "Me"])))
def test_plain_text_in_any_script_is_left_alone(text):
    seen = INVISIBLE.sub("", text)
    assert terminal_safe(seen) == one_row(seen) == seen


def test_strength_is_rounded_up_to_ten_levels():
    values = np.array([0.0, 0.001, 1.0, 1.01, 9.0, 9.01, 10.0], np.float32)
    assert levels(values, 10.0).tolist() == [0, 1, 1, 2, 9, 10, 10]


@pytest.mark.parametrize("greatest", [0.3, 1 / 3, 7e-30, 1.1e30])
def test_a_whole_number_of_tenths_is_not_rounded_up_by_float_noise(greatest):
    tenths = np.arange(11) / 10 * greatest
    assert levels(tenths, greatest).tolist() == list(range(11))


@given(
    hnp.arrays(np.float32, st.integers(0, 9), elements=strengths),
    st.just(0.0) | st.floats(2.0**-20, 2.0**21),
)
def test_levels_are_zero_to_ten_and_rise_with_the_value(values, greatest):
    found = levels(values, greatest)
    assert found.dtype == np.int64
    assert ((found >= 0) & (found <= 10)).all()
    if greatest:
        assert (np.diff(found[np.argsort(values)]) >= 0).all()
        assert (found[values == 0] == 0).all()
        assert (found[values >= greatest] == 10).all()
    else:
        assert not found.any()
