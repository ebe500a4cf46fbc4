"""Windows held out for explainers, how an explanation came about, the conditions of a grid."""

HELD_OUT = """
create table new_windows (
    example_set_id text not null references example_sets(id),
    role text not null check (role in ('shown', 'scored', 'held_out')),
    ordinal integer not null,
    window_id text not null references windows(id),
    stratum text not null,
    weight real not null,               -- windows of the stratum that this one stands for
    primary key (example_set_id, role, ordinal)
) strict, without rowid;
insert into new_windows select * from example_set_windows;
drop table example_set_windows;
alter table new_windows rename to example_set_windows;
alter table explanations add column detail text;
create table conditions (
    grid text not null,                 -- name of the grid
    name text not null,
    ordinal integer not null,           -- place in the grid
    part text not null,                 -- what it varies
    label text not null,                -- in words
    against text not null,              -- JSON: conditions it is compared with
    settings text not null,             -- JSON: the whole study, with what was changed
    cache_id text not null references caches(id),
    judge_id text not null,             -- engine that judged
    explanation_ids text not null,      -- JSON
    primary key (grid, name)
) strict;
"""
