"""The greatest and least products of vectors with very many others, never all products at once.

Where a CPU is fast at bfloat16 the products in bfloat16 say which may be among the greatest, and
float32 decides. With rounded x~ and w~ (Cauchy and Schwarz)

    |x w - x~ w~| <= |x - x~| |w| + |x~| |w - w~|

so what misses the last of the greatest by more than the bound twice is not among them. Where too
many are near to the last one, all products of the vector are taken in float32. So it is found what
float32 finds, but for the last digits of sums. `sae.encoder` does the same with a coder's encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 26
"""Most products in one block: 256 MiB in float32."""
TILE_ELEMENTS = 1 << 22
"""Most numbers of columns that are brought to float32 at once: 16 MiB."""
CANDIDATE_ELEMENTS = 1 << 20
"""Most numbers of candidates that are multiplied at once: 4 MiB, which stay near the core."""
SCREENED_COLUMNS = 1 << 14
"""From so many columns on bfloat16 is asked first."""
HALF_STEP = 1 / 255
"""Greatest error of rounding to bfloat16, as a share of the rounded number."""
SPARE = 32
"""Products that are looked at beyond those wanted: more that are equal are rare."""
NONE = float("-inf")


class Found(NamedTuple):
    """The products at one end, the outermost first; equal ones in order of column."""

    columns: Tensor
    """(r, n) int64, numbers of columns."""
    products: Tensor
    """(r, n) float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The vectors that all others are multiplied with."""

    vectors: Tensor
    """(m, d) of any float dtype."""
    scale: Tensor | None
    """(m,) float32, what each is multiplied by; None = 1."""
    rough: Tensor | None
    """(m, d) bfloat16, scaled; None where float32 does all."""
    longest: float
    """Length of the longest, scaled; 0 if there is no `rough`."""
    lost: float
    """Greatest length of what rounding took from one."""

    def exact(self, first: int, last: int) -> Tensor:
        """(last - first, d) float32, scaled."""
        found = self.vectors[first:last].float()
        return found if self.scale is None else found * self.scale[first:last, None]

    def tiles(self) -> Iterator[tuple[int, int]]:
        """(first, last + 1) of runs of columns that are brought to float32 together."""
        m, d = self.vectors.shape
        size = max(1, TILE_ELEMENTS // d)
        return ((first, min(m, first + size)) for first in range(0, m, size))


@torch.no_grad()
def make_columns(vectors: Tensor, scale: Tensor | None, fast_bfloat16: bool) -> Columns:
    """Prepare vectors for `ends`.

    Args:
        vectors: (m, d).
        scale: (m,) what each is multiplied by; None = 1.
        fast_bfloat16: whether the CPU multiplies bfloat16 much faster than float32, and so with
            sums in float32, as the bound asks for.
    """
    plain = Columns(vectors, scale, None, 0.0, 0.0)
    if not (fast_bfloat16 and len(vectors) >= SCREENED_COLUMNS and vectors.device.type == "cpu"):
        return plain
    rough = torch.empty(vectors.shape, dtype=torch.bfloat16)
    if vectors.dtype == torch.bfloat16 and scale is None:
        rough = vectors
    longest = lost = 0.0
    for first, last in plain.tiles():
        exact = plain.exact(first, last)
        if rough is not vectors:
            rough[first:last] = exact
        longest = max(longest, float(exact.norm(dim=1).max()))
        lost = max(lost, float((exact - rough[first:last].float()).norm(dim=1).max()))
    return Columns(vectors, scale, rough, longest, lost)


@torch.no_grad()
def ends(
    rows: Tensor,
    columns: Columns,
    n: int,
    signs: Sequence[int] = (1,),
    first_own: int | None = None,
    block_elements: int = BLOCK_ELEMENTS,
) -> list[Found]:
    """For each vector the columns with the greatest or least products.

    Args:
        rows: (r, d) float32, of length 1 or 0: with very short ones sums in bfloat16 are off.
        columns: by `make_columns`.
        n: how many, at most as there are columns.
        signs: 1 for the greatest, -1 for the least; both come from one product.
        first_own: the column that is the first row; the others follow. These products are left
            out of the greatest. None = rows are no columns.
        block_elements: most products at once.

    Returns:
        What was found for each of the signs. Which of equal ones are among them is by order of
        column, if they are greater than 0, or less for the least.
    """
    m = len(columns.vectors)
    n = min(n, m)
    size = max(1, block_elements // m)
    look = _dense if columns.rough is None or 2 * n + SPARE >= m else _screened
    parts = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        own = None
        if first_own is not None:
            own = torch.arange(start, start + len(part), device=rows.device) + first_own
        parts.append(look(part, columns, n, signs, own))
    none = Found(rows.new_zeros((0, n), dtype=torch.long), rows.new_zeros((0, n)))
    if not parts:
        return [none for _ in signs]
    return [Found(*map(torch.cat, zip(*end, strict=True))) for end in zip(*parts, strict=True)]


def _dense(
    rows: Tensor, columns: Columns, n: int, signs: Sequence[int], own: Tensor | None
) -> list[Found]:
    """All products in float32."""
    p = rows.new_empty((len(rows), len(columns.vectors)))
    for first, last in columns.tiles():
        p[:, first:last] = rows @ columns.exact(first, last).T
    if own is not None:
        p[torch.arange(len(own), device=own.device), own] = NONE
    return [_outermost(p, n, sign) for sign in signs]


def _outermost(p: Tensor, n: int, sign: int) -> Found:
    """The n greatest or least of each row."""
    some = p.topk(min(n + SPARE, p.shape[1]), dim=-1, largest=sign > 0)
    found = _ordered(some.indices, some.values, n, sign)
    last = some.values[:, -1]
    crowded = (last == found.products[:, -1]) & (last * sign > 0)
    for row in crowded.nonzero().squeeze(1) if some.values.shape[1] < p.shape[1] else ():
        order = p[row].sort(descending=sign > 0, stable=True)
        found.columns[row], found.products[row] = order.indices[:n], order.values[:n]
    return found


def _ordered(places: Tensor, values: Tensor, n: int, sign: int) -> Found:
    """Of (r, c) candidates the n outermost, in order; equal ones in order of place."""
    places, order = places.sort(dim=1)
    values, kept = values.gather(1, order).sort(dim=1, descending=sign > 0, stable=True)
    return Found(places.gather(1, kept[:, :n]), values[:, :n])


def _screened(
    rows: Tensor, columns: Columns, n: int, signs: Sequence[int], own: Tensor | None
) -> list[Found]:
    """Products in bfloat16, float32 for those that may be among the outermost."""
    assert columns.rough is not None
    rounded = rows.bfloat16()
    p = rounded @ columns.rough.T
    if own is not None:
        p[torch.arange(len(own), device=own.device), own] = NONE
    bound, there = _bound(rows, rounded, columns), rows.any(dim=1)
    found, unsafe = [], torch.zeros(len(rows), dtype=torch.bool)
    for sign in signs:
        some = p.topk(2 * n + SPARE, dim=-1, largest=sign > 0)
        rough = sign * some.values.float()
        nth, last = rough[:, n - 1], rough[:, -1]
        off = bound + HALF_STEP * torch.maximum(nth.abs(), last.abs())
        unsafe |= (nth - last <= 2 * off) & there
        found.append(_ordered(some.indices, _exact(rows, columns, some.indices), n, sign))
    if bool(unsafe.any()):
        again = _dense(rows[unsafe], columns, n, signs, None if own is None else own[unsafe])
        for end, better in zip(found, again, strict=True):
            end.columns[unsafe], end.products[unsafe] = better
    return found


def _bound(rows: Tensor, rounded: Tensor, columns: Columns) -> Tensor:
    """(r,) how far products in bfloat16 may be off, but for the rounding of the product itself."""
    lost = (rows - rounded.float()).norm(dim=1)
    length = rows.norm(dim=1) + lost
    sums = rows.shape[1] * 2.0**-24
    return lost * columns.longest + length * (columns.lost + sums * columns.longest)


def _exact(rows: Tensor, columns: Columns, places: Tensor) -> Tensor:
    """(r, c) float32 products of each row with columns of its own.

    Not by a product of matrices: sums in the same order keep equal columns equal.
    """
    n, width = places.shape[1], rows.shape[1]
    products = torch.empty(places.shape)
    size = max(1, CANDIDATE_ELEMENTS // (n * width))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        chosen = columns.vectors.index_select(0, places[part].reshape(-1)).float()
        products[part] = (chosen.view(-1, n, width) * rows[part, None]).sum(dim=-1)
    return products if columns.scale is None else products * columns.scale[places]
