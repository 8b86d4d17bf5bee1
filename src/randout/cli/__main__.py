"""`python -m randout.cli`."""

from .app import main

main()
