"""The outermost products are those of all products, whether bfloat16 is asked first or not."""

import numpy as np
import pytest
import torch

from lite_interp import products
from lite_interp.products import ends, make_columns

BOTH = (1, -1)


@pytest.fixture(autouse=True)
def screened(monkeypatch):
    """Few columns are enough for bfloat16."""
    monkeypatch.setattr(products, "SCREENED_COLUMNS", 1)


def units(n, d, seed, spread=0.0):
    """(n, d) directions of length 1; with a spread below 1 they lie close together."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=draw)
    if spread:
        rows = rows * spread + torch.randn(d, generator=draw)
    return rows / rows.norm(dim=1, keepdim=True)


def slow_ends(rows, vectors, n, sign):
    """All products in float64; the outermost, equal ones in order of column."""
    p = sign * (rows.double() @ vectors.double().T)
    order = np.argsort(-p.numpy(), axis=1, kind="stable")[:, :n]
    return order, sign * np.take_along_axis(p.numpy(), order, 1)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("block_elements", [1, 3000, 1 << 24])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ends_are_those_of_all_products(fast, block_elements, spread, dtype):
    rows, vectors = units(40, 64, 0), units(700, 64, 1, spread).to(dtype)
    scale = torch.linspace(0.5, 2, 700)
    columns = make_columns(vectors, scale, fast)
    assert (columns.rough is not None) == fast
    found = ends(rows, columns, 10, BOTH, block_elements=block_elements)
    for sign, end in zip(BOTH, found, strict=True):
        _, slow = slow_ends(rows, vectors.double() * scale[:, None], 10, sign)
        np.testing.assert_allclose(end.products, slow, rtol=1e-4, atol=1e-6)
        # Which columns they are, up to those that the last digit tells apart.
        picked = (rows[:, None] * (vectors.float() * scale[:, None])[end.columns]).sum(-1)
        np.testing.assert_allclose(picked, end.products, rtol=1e-4, atol=1e-6)
        assert all(len(set(row)) == 10 for row in end.columns.tolist())


def test_bfloat16_alone_would_be_wrong_and_what_is_too_near_is_done_in_float32(monkeypatch):
    rows, vectors = units(40, 64, 0), units(3000, 64, 1)
    columns = make_columns(vectors, None, True)
    rough = (rows.bfloat16() @ columns.rough.T).topk(10).indices
    order, _ = slow_ends(rows, vectors, 10, 1)
    assert (rough.numpy() != order).any()
    seen = []

    def counted(some, *rest):
        seen.append(len(some))
        return dense(some, *rest)

    dense = products._dense
    monkeypatch.setattr(products, "_dense", counted)
    np.testing.assert_array_equal(ends(rows, columns, 10)[0].columns, order)
    assert sum(seen) < 10
    close = units(3000, 64, 1, spread=1e-3)
    seen.clear()
    found = ends(rows, make_columns(close, None, True), 10)[0]
    assert sum(seen) == 40
    np.testing.assert_allclose(found.products, slow_ends(rows, close, 10, 1)[1], atol=1e-6)


def test_the_bound_holds_for_every_product():
    """What is compared with the gap is never less than what bfloat16 was off."""
    for d in (3, 64, 1000):
        rows, vectors = units(30, d, 5), units(500, d, 6) * torch.logspace(-3, 3, 500)[:, None]
        columns = make_columns(vectors, None, True)
        rounded = rows.bfloat16()
        rough = (rounded @ columns.rough.T).double()
        lost = (rows - rounded.float()).norm(dim=1)
        bound = products._bound(rows, rounded, columns)[:, None]
        off = (rough - rows.double() @ vectors.double().T).abs()
        assert (off <= bound + products.HALF_STEP * rough.abs()).all()
        assert (lost > 0).any()


@pytest.mark.parametrize("fast", [False, True])
def test_equal_products_are_in_order_of_column(fast):
    rows = units(5, 16, 0)
    few = units(20, 16, 1)
    vectors = few.repeat(90, 1)  # every product 90 times, more than are looked at
    for n in (3, 10, 45, 120):
        found = ends(rows, make_columns(vectors, None, fast), n, BOTH)
        for sign, end in zip(BOTH, found, strict=True):
            best = slow_ends(rows, few, 2, sign)[0]
            expected = [
                [first + 20 * k for first in best[row] for k in range(90)] for row in range(5)
            ]
            assert end.columns.tolist() == [each[:n] for each in expected]


@pytest.mark.parametrize("fast", [False, True])
def test_rows_that_are_columns_are_not_their_own(fast):
    vectors = units(600, 32, 3)
    vectors[7] = 0
    columns = make_columns(vectors, None, fast)
    for start, stop in ((0, 9), (300, 600)):
        (found,) = ends(vectors[start:stop], columns, 10, first_own=start, block_elements=5000)
        order, slow = slow_ends(vectors[start:stop], vectors, 11, 1)
        for row, own in enumerate(range(start, stop)):
            if own == 7:
                assert found.products[row].max() <= 0
                continue
            assert found.columns[row].tolist() == [c for c in order[row].tolist() if c != own][:10]
            np.testing.assert_allclose(found.products[row], slow[row, 1:], rtol=1e-5, atol=1e-6)


def test_no_rows_and_fewer_columns_than_are_wanted():
    columns = make_columns(units(4, 8, 0), None, True)
    assert ends(torch.zeros(0, 8), columns, 10, BOTH)[1].columns.shape == (0, 4)
    assert ends(units(3, 8, 1), columns, 10)[0].products.shape == (3, 4)


def test_only_a_cpu_that_is_fast_at_it_looks_in_bfloat16(monkeypatch):
    vectors = units(50, 8, 0)
    assert make_columns(vectors, None, False).rough is None
    assert make_columns(vectors, None, True).rough.dtype == torch.bfloat16
    half = vectors.bfloat16()
    assert make_columns(half, None, True).rough is half
    assert make_columns(half, None, True).lost == 0
    monkeypatch.setattr(products, "SCREENED_COLUMNS", 51)
    assert make_columns(vectors, None, True).rough is None
