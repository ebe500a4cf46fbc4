"""The index that `search` reads. It follows from other tables and can be emptied at any time."""

INDEX_TABLES = (
    "search_explanations",
    "search_windows",
    "search_texts",
    "search_places",
    "search_vectors",
    "search_marks",
)
"""Never merged, never part of what a file says: `db.search` fills them again."""

TOKENIZE = "porter unicode61 remove_diacritics 2"
"""Words by Unicode, without accents, English ones without endings."""

SEARCH_INDEX = """
create virtual table search_explanations using fts5(
    text, content='explanations', content_rowid='rowid',
    tokenize='porter unicode61 remove_diacritics 2'
);
create virtual table search_windows using fts5(
    text, content='',
    tokenize='porter unicode61 remove_diacritics 2'
);
create table search_texts (
    number integer primary key,         -- rowid in search_windows
    hash integer not null unique        -- 63 bits of the text: each is indexed once
) strict;
create table search_places (
    text integer not null,              -- search_texts.number
    window integer not null,            -- rowid of the window
    cache integer not null,             -- caches.number
    latent integer not null,
    share real not null,                -- its peak / the latent's greatest activation
    primary key (text, window)
) strict, without rowid;
create table search_vectors (
    embedder_id text not null references embedders(id),
    block integer not null,
    explanation_ids text not null,      -- JSON, in the order of the vectors
    vectors blob not null,              -- unit vectors, float32, little-endian
    primary key (embedder_id, block)
) strict;
create table search_marks (
    source text primary key,            -- explanations, windows, or the id of an embedder
    last_row integer not null,          -- rowid of the last row that is in the index
    last_id text not null               -- its id: if it has another one, rows were renumbered
) strict;
"""
