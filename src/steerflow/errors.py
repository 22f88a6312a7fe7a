"""Errors a user can cause. A message says what is wrong, where, and what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SteerflowError(Exception):
    """The base of every error that input, files or the machine can cause; the CLI prints it without a traceback."""


class DataError(SteerflowError):
    """A data set or an observation that cannot be used as it is."""


class ArtefactError(SteerflowError):
    """A policy, critic, checkpoint or store on disk that is missing, damaged or foreign."""


class MismatchError(SteerflowError):
    """Two parts that do not fit together, such as a policy and a critic with other chunk lengths."""


class TrainingError(SteerflowError):
    """A run that cannot go on, such as one whose loss is no longer finite."""


class BusyError(SteerflowError):
    """A folder or file that another process is writing; later, the same command works."""


class UnknownNameError(SteerflowError, ValueError):
    """A name that is not one of the known ones."""


def unknown(kind: str, name: str, choices: Iterable[str], hint: str = "") -> UnknownNameError:
    """An error that names the nearest known names: ``raise unknown("solver", "eular", SOLVERS)``."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    message = f"Unknown {kind} {name!r}."
    if near:
        message += " Did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif known:
        listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        message += f" Known: {listed}."
    return UnknownNameError(message + (" " + hint if hint else ""))
