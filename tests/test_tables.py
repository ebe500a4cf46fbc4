import pytest

from lite_interp.errors import UsageError
from lite_interp.tables import filter_rows, sort_rows

ROWS = [
    {"latent": 3, "detection": 0.8, "explanation": "years"},
    {"latent": 1, "detection": None, "explanation": "names"},
    {"latent": 2, "detection": 0.6, "explanation": "commas"},
    {"latent": 7, "explanation": "brackets", "embedding": 0.8},
]


def latents(rows):
    return [row["latent"] for row in rows]


def test_rows_without_a_value_come_last_in_both_directions():
    assert latents(sort_rows(ROWS, "detection", down=True)) == [3, 2, 1, 7]
    assert latents(sort_rows(ROWS, "detection", down=False)) == [2, 3, 1, 7]


def test_equal_rows_keep_their_order_in_both_directions():
    rows = [{"latent": 1, "n": 5}, {"latent": 2, "n": 5}, {"latent": 3, "n": 4}]
    assert latents(sort_rows(rows, "n", down=True)) == [1, 2, 3]
    assert latents(sort_rows(rows, "n", down=False)) == [3, 1, 2]


def test_a_value_of_zero_is_a_value():
    rows = [{"latent": 1, "n": None}, {"latent": 2, "n": 0.0}, {"latent": 3, "n": 1.0}]
    assert latents(sort_rows(rows, "n", down=False)) == [2, 3, 1]
    assert latents(filter_rows(rows, ["n<1"])) == [2]


def test_texts_are_sorted_too():
    assert latents(sort_rows(ROWS, "explanation", down=False)) == [7, 2, 1, 3]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("detection>0.6", [3]),
        ("detection>=0.6", [3, 2]),
        ("detection < .7", [2]),
        ("detection<=0.8", [3, 2]),
        ("latent!=3", [1, 2, 7]),
        ("latent = 3.0", [3]),
        ("latent>-1", [3, 1, 2, 7]),
        ("detection>1e-3", [3, 2]),
        ("latent<1E+1", [3, 1, 2, 7]),
        ("detection>+0.7", [3]),
    ],
)
def test_a_filter_keeps_the_rows_for_which_it_holds(text, kept):
    assert latents(filter_rows(ROWS, [text])) == kept


def test_every_filter_must_hold_and_none_keeps_all():
    assert latents(filter_rows(ROWS, ["detection>0.5", "latent<3"])) == [2]
    assert filter_rows(ROWS, []) == ROWS


@pytest.mark.parametrize(
    "text",
    ["", "detection", "detection>", ">0.5", "detection=>1", "detection>.", "detection>1.2.3",
     "detection>1e", "detection>nan", "detection>0.5; drop", "detection\x1b[2J>1"],
)  # fmt: skip
def test_what_is_no_filter_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="not a filter") as caught:
        filter_rows(ROWS, [text])
    assert str(caught.value).isprintable()
    assert caught.value.hint


def test_a_column_that_is_not_there_is_answered_with_what_was_meant():
    for call in (
        lambda: sort_rows(ROWS, "detecton", down=True),
        lambda: filter_rows(ROWS, ["detecton>1"]),
    ):
        with pytest.raises(UsageError, match="no column is named: detecton") as caught:
            call()
        assert "`detection`" in caught.value.hint


def test_a_column_of_text_is_not_compared_with_a_number():
    with pytest.raises(UsageError, match="not a column of numbers: explanation"):
        filter_rows(ROWS, ["explanation>1"])


def test_an_empty_table_can_be_sorted_and_filtered_by_anything():
    assert sort_rows([], "detection", down=True) == filter_rows([], ["detection>1"]) == []
