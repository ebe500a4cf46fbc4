"""Results in the files of other tools.

results file ─base─▶ a latent at a time ─FORMATS─▶ file or folder, under its name once it is whole
"""
