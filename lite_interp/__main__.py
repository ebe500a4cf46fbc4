"""`python -m lite_interp` is the command `lite-interp`."""

from lite_interp.cli import main

main()
