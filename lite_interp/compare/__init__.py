"""Two ways to explain, or two judges, on the same windows: is the difference real?

file ─arms─▶ two arms ─judged─▶ verdicts ─matching─▶ latents, item by item ─comparing─▶ page
"""
