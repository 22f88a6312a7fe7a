"""``steerflow sweep RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from steerflow.cli.runs import Changes, RunName
from steerflow.cli.shell import keeping, parse


@dataclass(frozen=True)
class Sweep:
    """Choose each method's weight on tuning episodes and report it on test episodes, beside behaviour cloning.

    All methods meet the same seeded episodes. Results: RUN/summary.json, and one row per episode in RUN/evaluations.
    """

    # Run folder, or its name below ./runs.
    run: RunName
    # Methods to compare, such as qgf,best_of_n or 'qgf(aggregate=mean, steps=5)'; "all" are those whose parts the run has, an
    # unknown name lists them. Behaviour cloning is always there.
    methods: Annotated[tuple[str, ...], arg(aliases=("--method",))] = ("qgf", "best_of_n")
    # Tasks; by default all that the run has critics of.
    tasks: Annotated[tuple[str, ...], arg(aliases=("--task",))] = ()
    # Episodes on which each weight is tried; one that can no longer be chosen is given up before.
    tune_episodes: int = 20
    # Other episodes, on which the chosen weight is reported.
    test_episodes: int = 100
    # Weights to try for each method: a coarse grid first, then around the best.
    budget: int = 8
    # The first weights to try; by default multiples of the natural scale |velocity| / |critic's gradient|.
    grid: tuple[float, ...] = ()
    # Numbers of candidates to try for methods that search without guidance.
    candidates: tuple[int, ...] = (4, 16)
    # Test all tried weights, which shows the whole curve and how optimistic a maximum over it is.
    curve: bool = False
    # Seed of the episodes.
    seed: int = 0
    # Processes that step environments; by default one for each core.
    workers: int | None = None
    # Environments in a process.
    lanes: int = 4
    # Use another policy, critic or parts than the run's: folders of artefacts.
    policy: Path | None = None
    critic: Path | None = None
    parts: Annotated[tuple[Path, ...], arg(aliases=("--part",))] = ()
    # Changes to all methods.
    changes: OmitArgPrefixes[Changes] = field(default_factory=Changes)


def sweep(arguments: list[str]) -> None:
    config = parse(Sweep, arguments, prog="steerflow sweep")
    from steerflow.cli.runs import require_tasks
    from steerflow.cli.table import show_arms
    from steerflow.run import find_run

    run = find_run(config.run)
    keeping(f"Finished episodes are in {run / 'evaluations'}.")
    for task in require_tasks(run, config.tasks, critic=config.critic):
        show_arms(_sweep(config, run, task), task)
    print(run / "summary.json")


def _sweep(config: Sweep, run: Path, task: str) -> dict[str, Any]:
    from steerflow.cli.runs import parts_of, read_methods
    from steerflow.envs.pool import Pool
    from steerflow.evaluate.sweep import sweep

    with Pool(task, config.workers, config.lanes) as pool:
        # After the pool: its workers start while jax does.
        from steerflow.critic import Critic
        from steerflow.part import Part
        from steerflow.policy import Policy

        parts = [Part.load(folder) for folder in config.parts]

        def kinds() -> list[str]:
            # A run's parts fit its own policy and critic alone.
            own = [] if config.policy or config.critic else parts_of([(run, task)])
            return [*(part.kind for part in parts), *own]

        return sweep(
            run,
            Policy.load(config.policy) if config.policy else None,
            Critic.load(config.critic) if config.critic else None,
            task,
            read_methods(config.methods, config.changes, kinds),
            tune_episodes=config.tune_episodes,
            test_episodes=config.test_episodes,
            budget=config.budget,
            grid=config.grid or None,
            candidates=config.candidates,
            curve=config.curve,
            seed=config.seed,
            parts=parts,
            pool=pool,
        )
