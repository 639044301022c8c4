"""The one exception that people are meant to read.

Everything that a user can put right (a setting, a file, a study folder) is raised as `DptrainError` or a child of it.
The command line prints its problems, one per line, without a traceback, and exits with a code that is not 0.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class DptrainError(Exception):
    """One or more problems, each a full sentence: name=value, what was expected, what to do."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(DptrainError):
    """A setting is wrong, unknown or contradicts another one."""


class DataError(DptrainError):
    """The data do not say what the configuration claims."""


class StudyError(DptrainError):
    """The study folder cannot be used as asked: other configuration, other cohort, unwritable, corrupted."""


class PrivacyError(DptrainError):
    """The guarantee would not hold; no training and no epsilon."""
