"""Artefacts of a run by the run's name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steerflow.artefact import META
from steerflow.errors import SteerflowError, unknown

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.policy import Policy


def load_policy(place: Path | str) -> Policy:
    """The policy of a run, by the run's name or folder, or the folder of a policy itself.

    Raises SteerflowError where there is none; ArtefactError where it is damaged.
    """
    from steerflow.policy import Policy

    return Policy.load(_folder(place) or _run(place) / "policy")


def load_critic(place: Path | str, task: str | None = None) -> Critic:
    """The critic of a run for ``task`` (not needed where the run has one), or the one in a critic's own folder.

    Raises SteerflowError where there is none, or where there are several and no task is named; ArtefactError where it is
    damaged.
    """
    from steerflow.critic import Critic

    if folder := _folder(place):
        return Critic.load(folder)
    run = _run(place)
    known = critics_of(run)
    if task is None and len(known) != 1:
        several = f"Say for which task: {', '.join(known)}." if known else "Train one: steerflow train critic --help"
        raise SteerflowError(f"{run} holds {len(known)} critics. {several}")
    if task is not None and task not in known:
        from steerflow.envs.tasks import canonical_task

        task = canonical_task(task)
        if task not in known:
            raise unknown("task", task, known, f"Its critic is not in {run}; train it: steerflow train critic --help")
    return Critic.load(run / "critic" / (task or known[0]))


def critics_of(run: Path) -> list[str]:
    """Tasks of the critics in a run folder."""
    folders = (meta.parent.relative_to(run / "critic") for meta in (run / "critic").rglob(META))
    # A leading dot marks what a killed process left behind.
    return sorted(folder.as_posix() for folder in folders if not folder.name.startswith("."))


def _folder(place: Path | str) -> Path | None:
    return Path(place) if (Path(place) / META).exists() else None


def _run(place: Path | str) -> Path:
    from steerflow.run import find_run

    return find_run(place)
