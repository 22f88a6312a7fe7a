"""``steerflow evaluate RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from steerflow.cli.runs import Changes, RunName
from steerflow.cli.shell import keeping, parse


@dataclass(frozen=True)
class Evaluate:
    """Success of one method at a fixed weight, with its interval, beside behaviour cloning on the same episodes.

    To choose a weight, use `steerflow sweep`: picking the best of several results on test episodes is optimistic.
    """

    # Run folder, or its name below ./runs.
    run: RunName
    # How to steer: "default" needs no tuning; others are qgf, best_of_n, ...; an unknown name lists all.
    method: str = "default"
    # Strength of the guidance; by default the method's.
    weight: float | None = None
    # Actions sampled for each decision; by default the method's.
    candidates: int | None = None
    # Tasks; by default all that the run has critics of.
    tasks: Annotated[tuple[str, ...], arg(aliases=("--task",))] = ()
    # Number of episodes.
    episodes: int = 100
    # Which seeded episodes: those for choosing weights, or those for reporting.
    split: Literal["tune", "test"] = "test"
    # Seed of the episodes.
    seed: int = 0
    # Processes that step environments; by default one for each core.
    workers: int | None = None
    # Environments in a process.
    lanes: int = 4
    # Use another policy or critic than the run's own: a run, or the folder of an artefact.
    policy: Path | None = None
    critic: Path | None = None
    # Changes to the method.
    changes: OmitArgPrefixes[Changes] = field(default_factory=Changes)


def evaluate(arguments: list[str]) -> None:
    config = parse(Evaluate, arguments, prog="steerflow evaluate")
    from steerflow.cli.runs import require_tasks
    from steerflow.evaluate.sweep import evaluate_run
    from steerflow.load import load_critic, load_policy
    from steerflow.run import find_run

    run = find_run(config.run)
    keeping(f"Finished episodes are in {run / 'evaluations'}.")
    chosen = {"weight": config.weight, "candidates": config.candidates, **config.changes.given()}
    for task in require_tasks(run, config.tasks, critic=config.critic):
        evaluate_run(
            run,
            task,
            config.method,
            episodes=config.episodes,
            split=config.split,
            seed=config.seed,
            workers=config.workers,
            lanes=config.lanes,
            policy=load_policy(config.policy) if config.policy else None,
            critic=load_critic(config.critic, task) if config.critic else None,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    print(run / "summary.json")
