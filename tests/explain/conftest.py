"""The command line and the small trained run of the command line's tests."""

from tests.cli.conftest import hwq, trained

__all__ = ["hwq", "trained"]
