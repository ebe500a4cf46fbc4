"""What people's ratings say: of people, of scorers, and of how many more are needed."""

from lite_interp.raters.page import people_page, people_rows
from lite_interp.raters.study import People, people_agree

__all__ = ["People", "people_agree", "people_page", "people_rows"]
