"""Artefacts of a run by the run's name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steerflow.artefact import META
from steerflow.errors import SteerflowError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from steerflow.critic import Critic
    from steerflow.part import Part
    from steerflow.policy import Policy
    from steerflow.steer.recipe import Recipe


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

    return Critic.load(_folder(place) or _of_task(_run(place), "critic", task))


def load_part(place: Path | str, kind: str, task: str | None = None) -> Part:
    """The part of a ``kind``, such as "amortised", of a run for ``task``, or the one in a folder of its own; named and refused
    like a critic."""
    from steerflow.part import NETWORKS, Part

    if kind not in NETWORKS:
        raise unknown("part", kind, NETWORKS)
    return Part.load(_folder(place) or _of_task(_run(place), kind, task), kind)


def load_parts(
    run: Path,
    task: str,
    recipes: Iterable[Recipe],
    *,
    policy: Policy | None = None,
    critic: Critic | None = None,
    parts: Mapping[str, Part] | None = None,
) -> tuple[Policy, Critic | None, dict[str, Part]]:
    """What the recipes need to act on ``task``: the given artefacts, else the run's own.

    A critic is loaded where a recipe asks it and where there is one, for its values; parts only where a recipe asks them.
    Raises ArtefactError for what is asked and missing.
    """
    from steerflow.critic import Critic
    from steerflow.part import Part
    from steerflow.policy import Policy

    policy = policy or Policy.load(run / "policy")
    asked = {name for recipe in recipes for name in recipe.asks}
    folder = run / "critic" / task
    if critic is None and ("critic" in asked or folder.exists()):
        critic = Critic.load(folder)
    given = parts or {}
    kinds = sorted(asked - {"critic"})
    return policy, critic, {kind: given.get(kind) or Part.load(run / kind / task, kind) for kind in kinds}


def tasks_of(run: Path, kind: str = "critic") -> list[str]:
    """Tasks of the critics, or of artefacts of another kind, in a run folder."""
    folders = (meta.parent.relative_to(run / kind) for meta in (run / kind).rglob(META))
    # A leading dot marks what a killed process left behind.
    return sorted(folder.as_posix() for folder in folders if not folder.name.startswith("."))


def _of_task(run: Path, kind: str, task: str | None) -> Path:
    known, train = tasks_of(run, kind), f"steerflow train {kind} --help"
    if task is None and len(known) != 1:
        several = f"Say for which task: {', '.join(known)}." if known else f"Train one: {train}"
        raise SteerflowError(f"{run / kind} holds {len(known)} artefacts. {several}")
    if task is not None and task not in known:
        from steerflow.envs.tasks import canonical_task

        task = canonical_task(task)
        if task not in known:
            raise unknown("task", task, known, f"Its {kind} is not in {run}; train it: {train}")
    return run / kind / (task or known[0])


def _folder(place: Path | str) -> Path | None:
    return Path(place) if (Path(place) / META).exists() else None


def _run(place: Path | str) -> Path:
    from steerflow.run import find_run

    return find_run(place)
