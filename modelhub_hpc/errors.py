"""The errors a user can meet, the exit code of each, and words for messages; anything else that is raised is a bug."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_FAILED_CASES = 3
EXIT_INVALID = 4
EXIT_UNFIT = 5
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130


class ModelHubError(Exception):
    """An error meant to be read: what happened, the evidence, and what to do next."""

    exit_code = EXIT_BUG

    def __init__(self, message: str) -> None:
        super().__init__(textwrap.dedent(message).strip())


class UsageError(ModelHubError):
    """The command line or a configuration file asks for something that does not exist."""

    exit_code = EXIT_USAGE


class InvalidError(ModelHubError):
    """The model, the image or the set of inputs cannot be used."""

    exit_code = EXIT_INVALID


class UnfitError(ModelHubError):
    """This machine lacks something that the run needs."""

    exit_code = EXIT_UNFIT


class TryAgainError(ModelHubError):
    """The run cannot go on now; what is done stays done and the same command continues it."""

    exit_code = EXIT_TRY_AGAIN


class MachineError(TryAgainError):
    """This machine cannot go on now, while another may: its own scratch folder is full, say."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message)
        self.node = node

    def __reduce__(self) -> tuple[type[MachineError], tuple[str, str]]:
        return type(self), (str(self), self.node)


class InputError(ModelHubError):
    """One input of one case cannot be used: charged to the case, never to the run.

    kind: missing, unreadable, not-a-file, empty, truncated, damaged, too-big, unsupported,
    no-pixels, non-finite or changed.
    """

    exit_code = EXIT_INVALID

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return type(self), (self.kind, str(self))


def shown(path: object) -> str:
    """A path for a message: one printable line, whatever bytes its name holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def times(shape: Iterable[object]) -> str:
    """
    >>> times((240, 240, 155)), times(())
    ('240 x 240 x 155', 'one value')
    """
    return " x ".join(map(str, shape)) or "one value"


def count_of(count: int, noun: str) -> str:
    """
    >>> count_of(1, "case"), count_of(2000, "case")
    ('1 case', '2,000 cases')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
