"""Small corpora with the activations of one latent and its siblings, for draws of windows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from lite_interp.records import Firings
from lite_interp.samplers import SAMPLERS, DrawSettings, Source, draw_example_set
from lite_interp.window_index import WindowIndex
from lite_interp.windows import make_grid

SMALL = DrawSettings(width=4, n_shown=6, n_active=10, n_silent=8)


def sparse(dense):
    """A dense table of activations as firings."""
    contexts, positions = np.nonzero(dense)
    return Firings(
        contexts.astype(np.int32), positions.astype(np.int32), dense[contexts, positions]
    )


class World:
    """A corpus of token ids and the activations of one latent, as dense tables.

    `siblings` are tables of other latents; directions of the windows are random whole numbers, so
    that many lie equally near.
    """

    def __init__(self, token_ids, dense, width=4, lengths=None, siblings=()):
        n, n_ctx = token_ids.shape
        self.lengths = np.full(n, n_ctx, np.int32) if lengths is None else lengths
        self.token_ids = token_ids.astype(np.int32)
        inside = np.arange(n_ctx) < self.lengths[:, None]
        self.dense, *self.siblings = (
            np.where(inside, table, 0).astype(np.float32) for table in (dense, *siblings)
        )
        self.grid = make_grid(self.lengths, width)
        random = np.random.default_rng(len(self.token_ids))
        self.vectors = random.integers(-2, 3, (self.grid.n_windows, 3)).astype(np.float16)
        self.source = Source(
            "cache",
            self.grid,
            self.token_ids,
            self.texts,
            lambda latent: map(sparse, self.siblings),
            WindowIndex(self.vectors).nearest,
        )

    def tokens(self, place):
        return self.token_ids[place.context, place.start : place.start + place.length]

    def texts(self, ids):
        return tuple(f" t{token}" for token in ids.tolist())

    @property
    def firings(self):
        return sparse(self.dense)

    def draw(self, settings=SMALL, latent=0, seed=0):
        return draw_example_set(self.source, latent, self.firings, settings, seed)

    def peak(self, number, dense=None):
        context, start, length = self.grid.place(number)
        table = self.dense if dense is None else dense
        return float(table[context, start : start + length].max())

    def distinct_peaks(self):
        """Peaks of the active windows, strongest first, of each text only the strongest."""
        best = {}
        for number in range(self.grid.n_windows):
            text = self.tokens(self.grid.place(number)).tobytes()
            best[text] = max(best.get(text, 0.0), self.peak(number))
        return sorted((peak for peak in best.values() if peak > 0), reverse=True)

    def n_silent(self):
        return sum(self.peak(number) == 0 for number in range(self.grid.n_windows))


def make_world(n_contexts=40, density=0.05, seed=0, n_tokens=1000, width=4, n_ctx=16):
    random = np.random.default_rng(seed)
    shape = (n_contexts, n_ctx)
    fires = random.random(shape) < density
    dense = np.where(fires, random.lognormal(0, 1, shape), 0)
    siblings = [np.where(random.random(shape) < density, 1, 0) for _ in range(2)]
    return World(random.integers(0, n_tokens, shape), dense, width, siblings=siblings)


@st.composite
def worlds(draw):
    """Small corpora, often with repeated texts, equal peaks, short contexts, few silent windows."""
    n, n_ctx = draw(st.integers(1, 12)), draw(st.integers(1, 14))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    n_tokens = draw(st.sampled_from([1, 2, 4, 1000]))
    density = draw(st.sampled_from([0.0, 0.02, 0.2, 0.6, 0.97, 1.0]))
    strength = draw(st.sampled_from([random.lognormal, lambda *a: random.integers(1, 3, a[2])]))
    shape = (n, n_ctx)
    dense = np.where(random.random(shape) < density, strength(0, 1, shape), 0)
    lengths = random.integers(0, n_ctx + 1, n).astype(np.int32)
    siblings = [
        random.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.5]))
        for _ in range(draw(st.integers(0, 2)))
    ]
    return World(
        random.integers(0, n_tokens, shape), dense, draw(st.integers(1, 6)), lengths, siblings
    )


@st.composite
def settings_for(draw, world, strata=False):
    """Any settings for a world; with `strata`, of every kind of silent window."""
    counts = st.integers(0, 12 if strata else 0)
    return DrawSettings(
        width=world.grid.width,
        sampler=draw(st.sampled_from(sorted(SAMPLERS))),
        n_shown=draw(st.integers(0, 12)),
        n_active=draw(st.integers(0, 25)),
        n_silent=draw(st.integers(0, 12)),
        n_same_token=draw(counts),
        n_sibling=draw(counts),
        n_near=draw(counts),
        embedder_id="embedder",
        n_held_out=draw(st.integers(0, 6)),
    )
