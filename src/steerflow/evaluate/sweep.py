"""The honest comparison: strengths are chosen on tuning episodes and reported on others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerflow.envs.pool import Pool
from steerflow.envs.tasks import canonical_task
from steerflow.evaluate.arms import Actors, Arm
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import rows_path
from steerflow.evaluate.summary import arm_line, arm_summary, summarise
from steerflow.evaluate.timing import Timing, add_timing
from steerflow.evaluate.tune import Effort, Plan, episode_bar, recipes_of, tune_and_test
from steerflow.progress import console

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.part import Part
    from steerflow.policy import Policy
    from steerflow.steer.recipe import Recipe


def sweep(
    run: Path,
    policy: Policy | None,
    critic: Critic | None,
    task: str,
    methods: Sequence[str] | Mapping[str, Recipe] = ("qgf", "best_of_n"),
    *,
    tune_episodes: int = 20,
    test_episodes: int = 100,
    budget: int = 8,
    grid: Sequence[float] | None = None,
    candidates: Sequence[int] = (4, 16),
    curve: bool = False,
    seed: int = 0,
    workers: int | None = None,
    lanes: int = 4,
    parts: Iterable[Part] = (),
    pool: Pool | None = None,
    actors: Actors | None = None,
) -> dict[str, Any]:
    """Tune every method on the same tuning episodes, report it on the same test episodes; returns ``RUN/summary.json``.

    Guided methods get ``budget`` weights: first ``grid``, by default fixed multiples of the natural scale (the ratio of the
    velocity's norm to that of what weight 1 adds, measured on a few tuning episodes), then weights around the best so far.
    Methods without guidance but with candidates get at most as many numbers of candidates: ``candidates`` and the preset's
    own, on the same episodes. Weight 0, plain behaviour cloning, is always an arm. Reported are behaviour cloning and each
    method's chosen arm; with ``curve`` the other tuned strengths too, which shows the whole curve and how optimistic a maximum
    over it is.

    Killed and run again it continues, and ends with the same rows. ``methods``: presets, or recipes by name. ``policy``,
    ``critic`` and ``parts``: artefacts; the run's own where they are asked and not given.
    """
    run, task = Path(run), canonical_task(task)
    effort = Effort(tune_episodes, test_episodes, budget, grid, candidates, curve, seed)
    with ExitStack() as stack:
        # First the pool: its workers start while jax does.
        pool = pool or stack.enter_context(Pool(task, workers, lanes))
        from steerflow.load import load_parts
        from steerflow.part import by_kind

        plan = Plan(recipes_of(methods), effort)
        policy, critic, used = load_parts(
            run, task, (m.recipe for m in plan.methods), policy=policy, critic=critic, parts=by_kind(parts)
        )
        progress = stack.enter_context(episode_bar(f"Evaluating {task}", plan.episodes))
        tune_and_test(run, policy, critic, used, plan, pool, actors or Actors(), progress)
    return summarise(run)


def evaluate_run(
    run: Path,
    task: str,
    method: str,
    *,
    episodes: int = 100,
    split: str = "test",
    seed: int = 0,
    workers: int | None = None,
    lanes: int = 4,
    policy: Policy | None = None,
    critic: Critic | None = None,
    **changes: Any,
) -> list[dict[str, Any]]:
    """Evaluate one method of a run at a fixed strength beside behaviour cloning; returns their entries of the summary.

    ``changes`` are fields of the recipe: ``weight=0.1``, ``solver="heun"``. ``policy`` and ``critic``: artefacts, or None for
    the run's own. Rows that are there are reused. Choosing a weight by looking at several results on the test split is
    optimistic: use ``sweep``, or ``split="tune"``.
    """
    run, task = Path(run), canonical_task(task)
    with Pool(task, workers, lanes) as pool:
        # After the pool: its workers start while jax does.
        from steerflow.load import load_parts
        from steerflow.steer.presets import recipe

        chosen = recipe(method, **changes)
        policy, critic, parts = load_parts(run, task, [chosen], policy=policy, critic=critic)
        plain = recipe("bc", **{k: v for k, v in changes.items() if k in ("solver", "steps", "times", "noise")})
        arms = [Arm.of(name, policy, critic, one, parts) for name, one in {"bc": plain, method: chosen}.items()]
        spent = Timing()
        with episode_bar(f"Evaluating {task}", len(arms) * episodes) as progress:
            rows = evaluate(
                arms, range(episodes), split, pool, rows_path(run, task),
                seed=seed, on_row=progress.row, timing=spent,
            )  # fmt: skip
        add_timing(run, spent)
    summarise(run)
    found = [arm_summary([row for row in rows if row.arm == arm.name]) for arm in arms]
    for result in found:
        console().print(arm_line(result), highlight=False, markup=False, soft_wrap=True)
    return found
