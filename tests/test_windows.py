import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lite_interp.records import Firings, Place
from lite_interp.windows import active_windows, make_grid, make_window, window_values

lengths_of_contexts = hnp.arrays(np.int32, st.integers(1, 8), elements=st.integers(0, 20))
widths = st.integers(1, 9)


def slow_places(lengths, width):
    """The slow twin: windows of each context one after the other."""
    places = []
    for context, length in enumerate(lengths.tolist()):
        for start in range(0, length, width):
            if min(width, length - start) >= max(1, width // 2):
                places.append(Place(context, start, min(width, length - start)))
    return places


def sparse(dense):
    """A (n, n_ctx) table of activations as firings."""
    contexts, positions = np.nonzero(dense)
    values = dense[contexts, positions]
    return Firings(contexts.astype(np.int32), positions.astype(np.int32), values)


@st.composite
def worlds(draw):
    """Lengths, a width, and a dense table of activations that often tie."""
    lengths = draw(lengths_of_contexts)
    strengths = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 2.0])
    dense = draw(hnp.arrays(np.float32, (len(lengths), 20), elements=strengths))
    dense[np.arange(20) >= lengths[:, None]] = 0
    return lengths, draw(widths), dense


def test_contexts_are_cut_from_their_start_and_a_short_tail_belongs_to_no_window():
    # Width 4: 10 = 4 + 4 + a tail of 2, half a window, kept; 9 leaves 1, too short; 3 is kept.
    grid = make_grid(np.array([10, 9, 3, 1, 0, 4], np.int32), 4)
    assert [tuple(grid.place(number)) for number in range(grid.n_windows)] == [
        (0, 0, 4), (0, 4, 4), (0, 8, 2), (1, 0, 4), (1, 4, 4), (2, 0, 3), (5, 0, 4),
    ]  # fmt: skip


@given(lengths_of_contexts, widths)
def test_windows_are_numbered_in_the_order_of_contexts_and_positions(lengths, width):
    grid = make_grid(lengths, width)
    expected = slow_places(lengths, width)
    assert [grid.place(number) for number in range(grid.n_windows)] == expected


@given(lengths_of_contexts, widths)
def test_every_position_lies_in_one_window_or_in_a_tail(lengths, width):
    grid = make_grid(lengths, width)
    contexts, positions = np.nonzero(np.arange(20) < lengths[:, None])
    numbers = grid.numbers(contexts.astype(np.int32), positions.astype(np.int32))
    seen = dict(zip(zip(contexts.tolist(), positions.tolist(), strict=True), numbers, strict=True))
    for number, (context, start, length) in enumerate(slow_places(lengths, width)):
        for position in range(start, start + length):
            assert seen.pop((context, position)) == number
    assert set(seen.values()) <= {-1}
    for context, position in seen:  # what is left is the last run of its context, and short
        assert lengths[context] - position // width * width < max(1, width // 2)


@given(worlds())
def test_active_windows_are_those_with_a_firing_strongest_first(world):
    lengths, width, dense = world
    grid = make_grid(lengths, width)
    peaks = {
        number: float(dense[context, start : start + length].max())
        for number, (context, start, length) in enumerate(slow_places(lengths, width))
    }
    expected = sorted((-peak, number) for number, peak in peaks.items() if peak > 0)
    found = active_windows(grid, sparse(dense))
    assert found.numbers.tolist() == [number for _, number in expected]
    assert found.peaks.tolist() == [-peak for peak, _ in expected]


@given(worlds())
def test_the_values_of_a_window_are_those_of_its_positions(world):
    lengths, width, dense = world
    firings = sparse(dense)
    for place in slow_places(lengths, width):
        expected = dense[place.context, place.start : place.start + place.length]
        np.testing.assert_array_equal(window_values(place, firings), expected)


def test_a_latent_that_never_fires_has_no_active_window():
    found = active_windows(make_grid(np.array([8], np.int32), 4), sparse(np.zeros((1, 8))))
    assert (len(found.numbers), len(found.peaks)) == (0, 0)


def test_a_firing_in_a_tail_makes_no_window_active():
    dense = np.zeros((2, 9), np.float32)
    dense[0, 8] = 5.0
    grid = make_grid(np.array([9, 9], np.int32), 4)
    assert active_windows(grid, sparse(dense)).numbers.tolist() == []


def test_the_name_of_a_window_follows_from_cache_latent_and_place_alone():
    def name(cache="c", latent=1, place=(2, 4, 3), tokens=("a", "b", "c"), peak=1.0):
        values = np.full(len(tokens), peak, np.float32)
        return make_window(cache, latent, Place(*place), tokens, values).id

    assert name() == name(tokens=("x", "y", "z"), peak=9.0)
    others = [
        name(cache="d"), name(latent=2), name(place=(3, 4, 3)), name(place=(2, 8, 3)),
        name(place=(2, 4, 2)),
    ]  # fmt: skip
    assert len({name(), *others}) == 6


def test_a_window_knows_its_text_and_its_peak():
    window = make_window("c", 1, Place(2, 4, 2), (" a", "b"), np.array([0.0, 2.5], np.float32))
    assert (window.text, window.peak, window.context, window.start) == (" ab", 2.5, 2, 4)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_windows_leave_no_tail(width):
    # Half of 1, 2 or 3 tokens, rounded down and at least 1, is 1: every rest is a window.
    grid = make_grid(np.array([7], np.int32), width)
    assert sum(grid.place(number).length for number in range(grid.n_windows)) == 7
