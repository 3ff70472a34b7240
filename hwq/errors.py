"""Errors a user can cause. Each is one clear line and carries the process's exit code."""

from __future__ import annotations

import warnings


class HwqError(Exception):
    """Something the user can put right; the message says what is wrong and what to do."""

    exit_code = 2


class InputError(HwqError):
    """A path, a file or an option that cannot be used as given."""


class UnsupportedError(HwqError):
    """A network that holds something hwq cannot lower; names the module path and the source line."""

    exit_code = 3


class ToolError(HwqError):
    """A tool outside hwq is missing or failed: compiler, headers, disk."""

    exit_code = 4


class VerifyError(HwqError):
    """A graph breaks a rule of `ir.verify`: a fault in hwq or in an edited file."""

    exit_code = 5


class MismatchError(HwqError):
    """C++ and Python disagree, or a file changed since export."""

    exit_code = 1


class HwqNote(UserWarning):
    """Something the user should know that stops nothing; one line, as an error's."""


def note(text: str) -> None:
    """Tell it: a Python warning, which the command line prints as 'note: ...', once a text."""
    warnings.warn(text, HwqNote, stacklevel=2)
