"""The results file: opening it safely, and rows to records and back. No SQL lives elsewhere."""
