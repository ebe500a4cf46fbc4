"""Latents by words and by meaning, over explanations and the windows they fire in."""

from lite_interp.search.finding import PLACES, Hit, Request, find, hit_rows
from lite_interp.search.index import Searched, open_searched, open_to_search, with_meaning
from lite_interp.search.page import hits_table
from lite_interp.search.query import words_query

__all__ = [
    "PLACES",
    "Hit",
    "Request",
    "Searched",
    "find",
    "hit_rows",
    "hits_table",
    "open_searched",
    "open_to_search",
    "with_meaning",
    "words_query",
]
