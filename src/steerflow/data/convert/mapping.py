"""Which column of a foreign file plays which part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerflow.errors import DataError, unknown

REQUIRED = ("observations", "actions")
# What can say where an episode ends.
ENDS = ("terminals", "timeouts", "episode_ends", "episode_index")
PARTS = (*REQUIRED, "rewards", "next_observations", *ENDS)
# Names that others use; offered in the error message, never taken silently.
_OTHER_NAMES = {
    "observations": ("obs", "observation", "state", "states", "obs/state", "observation.state"),
    "actions": ("action", "act", "acts"),
    "rewards": ("reward", "rew", "next.reward"),
    "next_observations": ("next_obs", "next_observation", "next_state", "next_states"),
    "terminals": ("terminal", "done", "dones", "terminated", "terminations"),
    "timeouts": ("timeout", "truncated", "truncations", "truncation"),
    "episode_ends": ("meta/episode_ends", "ends"),
    "episode_index": ("episode", "episode_id", "episode_ids", "traj_id"),
}


def parse_mapping(items: Sequence[str]) -> dict[str, str]:
    """``["observations=obs/state", "actions=act"]`` as a mapping from our names to the file's."""
    mapping = {}
    for item in items:
        ours, equals, theirs = item.partition("=")
        if not equals or not ours.strip():
            raise DataError(f"{item!r} is no mapping. Write OURS=THEIRS, such as --map observations=obs/state.")
        mapping[ours.strip()] = theirs.strip()
    return mapping


def resolve(columns: Mapping[str, Any], mapping: Mapping[str, str] | None, where: str) -> dict[str, tuple[str, ...]]:
    """For each part that the file has, the file's columns that make it up, e.g. {"observations": ("agent", "block")}.

    A part without an entry in ``mapping`` is looked up under its own name; an empty entry says that the file has no such
    part; several names joined by commas are concatenated; names that are no part become further columns of the store.
    Raises DataError or UnknownNameError listing what the file holds and what to type.
    """
    given = dict(mapping or {})
    chosen = {part: part for part in PARTS if part in columns and part not in given} | given
    found = {}
    for ours, theirs in chosen.items():
        names = tuple(name.strip() for name in theirs.split(",") if name.strip())
        for name in names:
            if name not in columns:
                raise unknown("column", name, columns, f"{where} holds: {_listing(columns)}.")
        if names:
            found[ours] = names
    missing = [part for part in REQUIRED if part not in found]
    if missing:
        guesses = [
            f"--map {part}={name}"
            for part in PARTS
            if part not in found
            for name in _OTHER_NAMES[part]
            if name in columns
        ]
        tip = " ".join(guesses) if guesses else "--map observations=NAME --map actions=NAME"
        raise DataError(f"Which column of {where} holds the {missing[0]}? Try: {tip}. It holds: {_listing(columns)}.")
    if not any(part in found for part in ENDS) and not any(part in given for part in ENDS):
        guesses = [f"--map {part}={name}" for part in ENDS for name in _OTHER_NAMES[part] if name in columns]
        tip = (
            " ".join(guesses)
            if guesses
            else "--map timeouts=NAME, terminals=NAME, episode_ends=NAME or episode_index=NAME"
        )
        raise DataError(
            f"Nothing says where the episodes of {where} end. Try: {tip}. If it is a single episode: --map episode_ends= . "
            f"It holds: {_listing(columns)}."
        )
    return found


def _listing(columns: Mapping[str, Any]) -> str:
    shown = [f"{name} {facts}".strip() for name, facts in list(columns.items())[:40]]
    return ", ".join(shown) + (", …" if len(columns) > 40 else "")
