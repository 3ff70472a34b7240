"""`python -m hwq`."""

from hwq.cli import main

main()
