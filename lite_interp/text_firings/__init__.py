"""What fires on a text that is in no corpus, read as the cache read its corpus."""

from lite_interp.text_firings.html_page import html_page
from lite_interp.text_firings.reading import MOST_CHARACTERS, TextFirings, checked_text, read_text
from lite_interp.text_firings.rows import firing_rows, shown_latents
from lite_interp.text_firings.terminal_page import terminal_page

__all__ = [
    "MOST_CHARACTERS",
    "TextFirings",
    "checked_text",
    "firing_rows",
    "html_page",
    "read_text",
    "shown_latents",
    "terminal_page",
]
