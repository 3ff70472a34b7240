"""Files changed at random and given to the command line: see `python -m tests.fuzz.files --help`."""
