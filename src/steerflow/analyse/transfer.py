"""One weight for all tasks: which schedule lets one number serve tasks whose critics differ in everything.

For every schedule the same number of weights is tried on tuning episodes of every task, in the schedule's own unit: fixed
multiples of the natural scale's geometric mean over the tasks. Then three weights are reported on test episodes:

    tuned     for each task the best weight on its own tuning episodes
    left out  for each task the best weight on the tuning episodes of all others, and of no other seed of the same study on
              the same task: what a default would have done here
    one       the best weight on the tuning episodes of all tasks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from steerflow.errors import SteerflowError
from steerflow.evaluate.arms import Actors, Arm
from steerflow.evaluate.choose import peak, rounded
from steerflow.evaluate.compare import Cell, PoolWhenNeeded
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import EpisodeRow, rows_path
from steerflow.evaluate.statistics import mean_over_tasks, percentiles, resampled_means
from steerflow.evaluate.summary import SCALE, arm_summary, natural_scale
from steerflow.evaluate.timing import Timing, add_timing
from steerflow.evaluate.tune import EpisodeBar
from steerflow.load import load_parts
from steerflow.progress import bar
from steerflow.steer.presets import recipe
from steerflow.steer.recipe import Recipe

SCHEDULES = ("constant", "normalised", "distance", "likelihood", "critic_scale", "steepness", "variance", "spread")
# Of the natural scale; the best weights have been found at a tenth to a quarter of it.
MULTIPLES = (0.03, 0.06, 0.12, 0.25, 0.5)
_SCALE_EPISODES = 4
CHOICES = ("tuned", "left_out", "one")
PLAIN = "bc"


def transfer(
    settings: Sequence[Cell],
    method: str = "qgf",
    schedules: Sequence[str] = SCHEDULES,
    *,
    multiples: Sequence[float] = MULTIPLES,
    tune_episodes: int = 20,
    episodes: int = 100,
    seed: int = 0,
    workers: int | None = None,
    lanes: int = 4,
) -> dict[str, Any]:
    """Measure all schedules on all settings; rows go to the runs' own files, and what is there is not run again.

    Returns the entries of each schedule, test results (``points``), tuning results (``curves``) and natural scales. Raises
    SteerflowError for less than two settings beside seeds, and where an environment does not tell success.
    """
    if len({_setting(one) for one in settings}) < 2:
        raise SteerflowError(
            "Whether one weight serves several tasks needs two at least: give --tasks, or several runs. Seeds of one study on "
            "one task count as one."
        )
    most = len(schedules) * (_SCALE_EPISODES + len(multiples) * tune_episodes + len(CHOICES) * episodes) + episodes
    with bar("Transfer", most * len(settings)) as shown:
        progress = EpisodeBar(shown, most * len(settings))
        lab = _Lab(method, seed, workers, lanes, progress)
        scales = lab.scales([(s, one) for one in settings for s in schedules])
        units = {s: geometric_mean(scales[s, one] for one in settings) for s in schedules}
        grids = {s: [rounded(multiple * units[s]) for multiple in multiples] for s in schedules}
        tried = [(s, one, w) for one in settings for s in schedules for w in grids[s]]
        tuned = lab.evaluate(tried, "tune", tune_episodes)
        scores = {s: {one: [score(tuned[s, one, w]) for w in grids[s]] for one in settings} for s in schedules}
        chosen = {
            (s, one, choice): grids[s][index]
            for s in schedules
            for one, indices in choices(scores[s], _setting).items()
            for choice, index in zip(CHOICES, indices, strict=True)
        }
        asked = dict.fromkeys((s, one, w) for one in settings for (s, other, _), w in chosen.items() if other == one)
        tested = lab.evaluate([*asked, *((PLAIN, one, 0.0) for one in settings)], "test", episodes)
        progress.finish()
    found = {(s, one, choice): tested[s, one, w] for (s, one, choice), w in chosen.items()}
    return {
        "schedules": [
            {"schedule": s, "unit": units[s], "weight": chosen[s, settings[0], "one"]}
            | {choice: pooled([found[s, one, choice] for one in settings]) for choice in CHOICES}
            for s in schedules
        ]
        + [{"schedule": PLAIN, "one": pooled([tested[PLAIN, one, 0.0] for one in settings])}],
        "points": [
            {"schedule": s, "setting": named(one), "choice": choice, **arm_summary(rows)}
            for (s, one, choice), rows in found.items()
        ]
        + [{"schedule": PLAIN, "setting": named(one), **arm_summary(tested[PLAIN, one, 0.0])} for one in settings],
        "curves": [
            {"schedule": s, "setting": named(one), "multiple": w / units[s], **arm_summary(tuned[s, one, w])}
            for s, one, w in tried
        ],
        "scales": [{"schedule": s, "setting": named(one), "scale": scale} for (s, one), scale in scales.items()],
    }


def named(setting: Cell) -> str:
    """Task and run, without what all names of OGBench's tasks have in common."""
    return f"{setting.task.replace('-singletask', '').removesuffix('-v0')}, {setting.name}"


def choices(
    scores: Mapping[Any, Sequence[float]], setting: Callable[[Any], Any] = lambda one: one
) -> dict[Any, tuple[int, int, int]]:
    """Indices of the weights (tuned, left out, one) for each key, from scores by key and weight; ``setting`` tells of a key
    which others are the same and left out with it.

    The best mean wins; of equal ones the one whose neighbours do best, then the smallest.
    """
    everything = [*scores.values()]
    others = {one: [mine for key, mine in scores.items() if setting(key) != setting(one)] for one in scores}
    return {one: (_best([mine]), _best(others[one]), _best(everything)) for one, mine in scores.items()}


def _setting(cell: Cell) -> tuple[str, Path]:
    """Seeds of one study on the same task are one setting."""
    return cell.task, cell.study


def _best(curves: Sequence[Sequence[float]]) -> int:
    means = [sum(column) / len(column) for column in zip(*curves, strict=True)]
    return peak(means, [1] * len(means))


def score(rows: Sequence[EpisodeRow]) -> float:
    """The success rate."""
    if any(row.success is None for row in rows):
        raise SteerflowError(
            f"{rows[0].task} does not tell success, and returns of different tasks cannot be averaged."
        )
    return sum(bool(row.success) for row in rows) / len(rows)


def pooled(rows: Sequence[Sequence[EpisodeRow]], resamples: int = 4000) -> dict[str, float]:
    """The mean of the settings' success rates, its interval by bootstrap over the episodes of each, and the worst of them."""
    outcomes = {str(n): np.array([[bool(row.success) for row in some]]) for n, some in enumerate(rows)}
    low, high = percentiles(mean_over_tasks(resampled_means(outcomes, resamples)))
    rates = [score(some) for some in rows]
    return {"success": float(np.mean(rates)), "ci_low": low, "ci_high": high, "worst": min(rates)}


@dataclass
class _Lab:
    """Evaluates weights; one pool at a time, opened where a setting has episodes that were not run yet."""

    method: str
    seed: int
    workers: int | None
    lanes: int
    progress: EpisodeBar
    # What is loaded and compiled for one split serves the next.
    actors: Actors = field(default_factory=Actors)

    def __post_init__(self) -> None:
        self._artefacts = cache(lambda setting: load_parts(setting.run, setting.task, [recipe(self.method)]))

    def recipe(self, schedule: str, weight: float) -> Recipe:
        return recipe("bc") if schedule == PLAIN else recipe(self.method, schedule=schedule, weight=weight)

    def scales(self, wanted: Sequence[tuple[str, Cell]]) -> dict[tuple[str, Cell], float]:
        """The natural scales: |v| over the norm of what weight 1 adds, on a few tuning episodes of plain behaviour cloning."""
        probed = self.evaluate([(*one, 0.0) for one in wanted], "tune", _SCALE_EPISODES, SCALE)
        found = {}
        for (schedule, setting, _), rows in probed.items():
            scale = natural_scale(rows)
            if scale is None:
                raise SteerflowError(f"{self.method} has no gradient on {named(setting)}: its weight has no scale.")
            found[schedule, setting] = scale
        return found

    def evaluate(
        self, wanted: Iterable[tuple[str, Cell, float]], split: str, episodes: int, kind: str = ""
    ) -> dict[tuple[str, Cell, float], list[EpisodeRow]]:
        found = {}
        by_setting: dict[Cell, list[tuple[str, Cell, float]]] = {}
        for one in wanted:
            by_setting.setdefault(one[1], []).append(one)
        for setting, some in by_setting.items():
            recipes = [self.recipe(schedule, weight) for schedule, _, weight in some]
            names = [PLAIN if schedule == PLAIN else self.method for schedule, _, _ in some]
            policy, critic, parts = self._artefacts(setting)
            arms = [Arm.of(name, policy, critic, one, parts) for name, one in zip(names, recipes, strict=True)]
            spent = Timing()
            with PoolWhenNeeded(setting.task, self.workers, self.lanes) as pool:
                rows = evaluate(
                    arms, range(episodes), split, pool, rows_path(setting.run, setting.task, kind),
                    seed=self.seed, actors=self.actors, on_row=self.progress.row, timing=spent,
                )  # fmt: skip
            if spent.steps:
                add_timing(setting.run, spent)
            for k, one in enumerate(some):
                found[one] = rows[k * episodes : (k + 1) * episodes]
        return found
