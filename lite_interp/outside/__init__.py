"""Explanations by people and other tools.

files ─formats─▶ records ─belonging─▶ those of this coder ─importing─▶ results file
"""
