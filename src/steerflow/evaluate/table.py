"""The tables of a comparison, from episode rows alone: by method over all tasks and runs, and by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerflow.errors import SteerflowError
from steerflow.evaluate.statistics import interquartile_mean, mean_over_tasks, percentiles, resampled_means

# (runs, episodes) of each task.
Outcomes = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """A method on one task with one run: what was tried and chosen while tuning, and what came of its test episodes."""

    method: str
    task: str
    run: str
    # "weight", "candidates", or None where there is nothing to tune; its chosen value.
    tuned: str | None
    strength: float | None
    arm: str
    # How many weights (0, which all share, is not counted) or numbers of candidates were tried.
    settings: int
    # Of the chosen arm's test episodes, in their order, by measure: "return" and, where the environment tells it, "success".
    outcomes: Mapping[str, tuple[float, ...]]
    # By measure, the mean of the arm that was best on the test episodes; None unless all that were tried were tested.
    optimistic: Mapping[str, float] | None = None
    # What a decision costs with the chosen arm, where it was measured.
    cost: Mapping[str, Any] | None = None


def measure_of(results: Sequence[Result]) -> str:
    """What arms are compared by: "success", or "return" where an environment does not tell success."""
    for measure in ("success", "return"):
        if all(measure in result.outcomes for result in results):
            return measure
    raise SteerflowError("Some of the comparisons are of success, others of returns: they do not fit into one table.")


def tables(results: Sequence[Result], reference: str, cloning: str = "bc") -> dict[str, Any]:
    """``methods``: one entry for each, over all tasks and runs; ``tasks``: the same entries for each task, with their runs.

    Every method needs a result for each (task, run) on the same episodes. Differences are to ``reference`` and to
    behaviour ``cloning``, paired by episode.
    """
    measure = measure_of(results)
    names, tasks = (list(dict.fromkeys(getattr(r, name) for r in results)) for name in ("method", "task"))
    # By name, so that intervals do not depend on the order in which comparisons are joined.
    by_run = sorted(results, key=lambda result: result.run)
    outcomes = {
        name: {t: np.array([r.outcomes[measure] for r in by_run if (r.method, r.task) == (name, t)]) for t in tasks}
        for name in names
    }
    others = [name for name in dict.fromkeys((cloning, reference)) if name in names]

    def entries(chosen: Sequence[str]) -> list[dict[str, Any]]:
        part = {name: {task: outcomes[name][task] for task in chosen} for name in names}
        return [
            {
                "method": name,
                **_scores(part[name]),
                "against": {other: _difference(part[name], part[other]) for other in others if other != name},
                **_effort([r for r in results if r.method == name and r.task in chosen], measure),
            }
            for name in names
        ]

    return {
        "measure": measure,
        "reference": reference,
        "cloning": cloning,
        # Of task and run.
        "pairs": sum(r.method == names[0] for r in results),
        "methods": entries(tasks),
        "tasks": [
            {
                "task": task,
                "methods": [
                    entry
                    | {"runs": [_run(r, measure) for r in results if (r.method, r.task) == (entry["method"], task)]}
                    for entry in entries([task])
                ],
            }
            for task in tasks
        ],
    }


def results_of(table: Mapping[str, Any]) -> list[Result]:
    """The results that ``tables`` was given, as far as its measure and the means over runs of costs tell."""
    measure = table["measure"]
    return [
        Result(
            method=entry["method"],
            task=task["task"],
            run=run["run"],
            tuned=entry["tuned"],
            strength=run["strength"],
            arm=run["arm"],
            settings=run["settings"],
            outcomes={measure: tuple(map(float, run["outcomes"]))},
            optimistic=None if run["optimistic"] is None else {measure: run["optimistic"]},
            cost=entry["cost"],
        )
        for task in table["tasks"]
        for entry in task["methods"]
        for run in entry["runs"]
    ]


def _scores(outcomes: Outcomes) -> dict[str, Any]:
    """Interquartile mean over all (task, run) and mean over tasks, each with its interval."""
    means = {task: values.mean(axis=1) for task, values in outcomes.items()}
    drawn = resampled_means(outcomes)

    def entry(name: str, statistic: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> dict[str, float]:
        (value,) = statistic({task: x[None] for task, x in means.items()})
        low, high = percentiles(statistic(drawn))
        return {name: float(value), f"{name}_low": low, f"{name}_high": high}

    return entry("iqm", _middle) | entry("mean", mean_over_tasks)


def _middle(means: Mapping[str, np.ndarray]) -> np.ndarray:
    return interquartile_mean(np.concatenate(list(means.values()), axis=1))


def _difference(ours: Outcomes, theirs: Outcomes) -> dict[str, Any]:
    """Mean over tasks of ours minus theirs, paired by episode; on how many episodes ours is better, and worse."""
    by_task = {task: ours[task] - theirs[task] for task in ours}
    low, high = percentiles(mean_over_tasks(resampled_means(by_task)))
    everything = np.concatenate([x.ravel() for x in by_task.values()])
    wins, losses = int((everything > 0).sum()), int((everything < 0).sum())
    return {
        "difference": float(np.mean([x.mean() for x in by_task.values()])),
        "low": low,
        "high": high,
        "wins": wins,
        "losses": losses,
        "episodes": everything.size,
    }


def _effort(results: Sequence[Result], measure: str) -> dict[str, Any]:
    """Settings tried (fewest and most), and costs: means over the results."""
    settings = [r.settings for r in results]
    costs = [r.cost for r in results if r.cost is not None]
    optimistic = [r.optimistic[measure] for r in results if r.optimistic is not None]
    return {
        "tuned": results[0].tuned,
        "settings": [min(settings), max(settings)],
        "optimistic": float(np.mean(optimistic)) if len(optimistic) == len(results) else None,
        "cost": _mean_of(costs) if len(costs) == len(results) else None,
    }


def _mean_of(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Field by field, through all levels."""
    return {
        name: _mean_of([c[name] for c in costs]) if isinstance(first, Mapping) else float(np.mean([c[name] for c in costs]))
        for name, first in costs[0].items()
    }  # fmt: skip


def _run(result: Result, measure: str) -> dict[str, Any]:
    facts = {name: getattr(result, name) for name in ("run", "arm", "strength", "settings")}
    outcomes = result.outcomes[measure]
    return {
        **facts,
        "score": float(np.mean(outcomes)),
        "episodes": len(outcomes),
        # Of each episode: 1 and 0 as text for success, else a list of returns.
        "outcomes": "".join(f"{x:.0f}" for x in outcomes) if measure == "success" else list(outcomes),
        "optimistic": None if result.optimistic is None else result.optimistic[measure],
    }
