"""Beginnings of words in the index of `search`: `year*` without a walk over all words."""

SEARCH_PREFIXES = """
drop table search_explanations;
create virtual table search_explanations using fts5(
    text, content='explanations', content_rowid='rowid', prefix='1 2 3',
    tokenize='porter unicode61 remove_diacritics 2'
);
drop table search_windows;
create virtual table search_windows using fts5(
    text, content='', prefix='1 2 3',
    tokenize='porter unicode61 remove_diacritics 2'
);
delete from search_texts;
delete from search_places;
delete from search_marks where source in ('explanations', 'windows');
"""
