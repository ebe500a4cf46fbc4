"""Pages about a results file: records of plain JSON, and one page that shows them.

    results file ─▶ Study ─▶ overview record, one record a latent ─▶ page

`study`, `rows`, `provenance`, `latent` and `judged` gather, `page` writes, `making` joins them.
Texts in records are visible and cut, numbers have four digits, so whoever shows them need only
write text as text.
"""
