"""Answers of other files that differ from those of this one: both are kept."""

MERGED = """
create table conflicts (
    table_name text not null,           -- where the row of the same key has another answer
    key text not null,                  -- JSON: names the question
    other text not null,                -- JSON: the other answer, bytes as hex; null: there is none
    file text not null,                 -- name of the file that it came from
    found_utc text not null,
    primary key (table_name, key, other)
) strict, without rowid;
"""
