"""A grid of studies that differ in one thing each: conditions, running them, their table.

base study ─conditions─▶ studies ─running─▶ one results file ─table─▶ rows ─page─▶ tables
"""
