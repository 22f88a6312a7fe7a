"""Success of a family of arms against something: what all figures of evaluations share.

A ``Case`` is one place of a figure; ``Lab.measure`` evaluates the cases on one task and returns their points. Weights are
chosen on tuning episodes, with the same budget for each case, and all points are of the same test episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from steerflow.critic import Critic
from steerflow.envs.pool import Pool
from steerflow.evaluate.arms import Actors, Arm, method_name
from steerflow.evaluate.choose import best, curves
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import EpisodeRow, episode_seed, read_rows, rows_path
from steerflow.evaluate.summary import arm_summary, summarise
from steerflow.evaluate.sweep import episode_bar, sweep
from steerflow.evaluate.timing import Timing, add_timing
from steerflow.load import load_parts
from steerflow.policy import Policy
from steerflow.steer.actor import Actor
from steerflow.steer.presets import recipe
from steerflow.steer.recipe import Recipe


@dataclass(frozen=True)
class Case:
    """How to steer and with what; ``line`` is the figure's line that its points belong to, ``facts`` are added to them."""

    line: str
    # A preset's name, and its recipe with changes.
    method: str
    recipe: Recipe
    # The run whose policy acts and whose evaluations hold the rows.
    run: Path
    # Another run, whose critic is asked.
    critic_run: Path | None = None
    # "given": the recipe as it is; "chosen": its strength is chosen on tuning episodes; "curve": a point for each strength
    # that was tried. What has no strength, such as behaviour cloning, is as given.
    strength: Literal["given", "chosen", "curve"] = "chosen"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.recipe.guided and self.recipe.candidates == 1:
            object.__setattr__(self, "strength", "given")

    @property
    def name(self) -> str:
        """The method's name in rows: as a sweep with the same changes calls it, so that they share their rows."""
        return method_name(self.method, self.recipe)


@dataclass
class Lab:
    """Evaluates cases on one task; keeps environments and compiled actors for the next call."""

    task: str
    pool: Pool
    episodes: int
    tune_episodes: int
    budget: int
    # First weights to try; by default multiples of the natural scale.
    grid: tuple[float, ...] = ()
    seed: int = 0
    actors: Actors = field(default_factory=Actors)

    def __post_init__(self) -> None:
        # Actors are kept by the identity of their networks: each artefact is loaded once.
        self._policy = cache(lambda run: Policy.load(run / "policy"))
        self._critic = cache(lambda run: Critic.load(run / "critic" / self.task))

    def measure(self, cases: Sequence[Case], flops: bool = False) -> list[dict[str, Any]]:
        """The points of the cases, in order. What has rows in ``RUN/evaluations`` is not run again.

        Each has the network ``calls`` of an action, and with ``flops`` its floating-point operations, which takes seconds.
        Raises ArtefactError for a policy or critic that is missing, MismatchError for those that do not fit together.
        """
        groups: dict[tuple[Path, Path | None], list[Case]] = {}
        for case in cases:
            groups.setdefault((case.run, case.critic_run), []).append(case)
        found: dict[int, list[dict[str, Any]]] = {}
        for (run, _), group in groups.items():
            arms = self._arms(group)
            for strength in ("chosen", "curve"):
                self._sweep(run, {c.name: arms[i] for i, c in enumerate(group) if c.strength == strength}, strength)
            self._evaluate(run, [arms[i] for i, c in enumerate(group) if c.strength == "given"])
            rows = read_rows(rows_path(run, self.task))
            seeds = {episode_seed(self.seed, "test", episode) for episode in range(self.episodes)}
            for case, arm in zip(group, arms, strict=True):
                mine = [row for row in rows if row.split == "tune" or row.seed in seeds]
                cost = _cost(arm, flops)
                found[id(case)] = [point | cost for point in points_of(case, arm, mine)]
        return [point for case in cases for point in found[id(case)]]

    def _arms(self, group: Sequence[Case]) -> list[Arm]:
        """The arm of each case, at its recipe's strength."""
        run, critic_run = group[0].run, group[0].critic_run
        own = (run / "critic" / self.task).exists()
        policy, critic = self._policy(run), self._critic(critic_run or run) if critic_run or own else None
        if critic is not None:
            policy.spec.require_same(critic.spec, f"policy of {run}", f"critic of {critic_run or run}")
        recipes = [case.recipe for case in group]
        policy, critic, parts = load_parts(run, self.task, recipes, policy=policy, critic=critic)
        return [Arm.of(case.name, policy, critic, case.recipe, parts) for case in group]

    def _sweep(self, run: Path, arms: Mapping[str, Arm], strength: str) -> None:
        if not arms:
            return
        one, parts = (
            next(iter(arms.values())),
            {kind: part for arm in arms.values() for kind, part in arm.parts.items()},
        )
        sweep(
            run, one.policy, one.critic, self.task, {name: arm.recipe for name, arm in arms.items()},
            tune_episodes=self.tune_episodes, test_episodes=self.episodes, budget=self.budget, grid=self.grid or None,
            curve=strength == "curve", seed=self.seed, parts=parts.values(), pool=self.pool, actors=self.actors,
        )  # fmt: skip

    def _evaluate(self, run: Path, arms: Sequence[Arm]) -> None:
        if not arms:
            return
        different, spent = {arm.name: arm for arm in arms}, Timing()
        with episode_bar(f"Evaluating {self.task}", len(different) * self.episodes) as progress:
            evaluate(
                [*different.values()], range(self.episodes), "test", self.pool, rows_path(run, self.task),
                seed=self.seed, actors=self.actors, on_row=progress.row, timing=spent,
            )  # fmt: skip
        add_timing(run, spent)
        summarise(run)


def points_of(case: Case, arm: Arm, rows: Sequence[EpisodeRow]) -> list[dict[str, Any]]:
    """The points of a case in the rows of its task: a strength is chosen, as in a sweep, by the rows of tuning episodes."""
    plain = Arm.of("bc", arm.policy, arm.critic, recipe("bc")).fingerprints
    mine = [row for row in rows if row.fingerprints in (arm.fingerprints, plain)]
    tested = [row for row in mine if row.split == "test"]
    if case.strength == "given":
        return [_point(case, arm, [row for row in tested if (row.arm, row.recipe) == (arm.name, arm.recipe.to_json())])]
    tuned = "weight" if case.recipe.guided else "candidates"
    family = {**case.recipe.to_json(), tuned: 0}
    curve = next(curve for curve in curves(mine) if (curve.method, curve.recipe) == (case.name, family))
    chosen, points = best(curve.points), []
    for one in curve.points if case.strength == "curve" else [chosen]:
        facts = {"strength": one.strength, "tried": len(curve.points)}
        facts |= {"chosen": one == chosen} if case.strength == "curve" else {}
        points.append(_point(case, arm, [row for row in tested if row.arm == one.arm], **facts))
    return points


def _point(case: Case, arm: Arm, rows: Sequence[EpisodeRow], **facts: Any) -> dict[str, Any]:
    runs = {"run": str(case.run), "critic_run": str(case.critic_run or case.run)}
    return {"line": case.line, **arm_summary(rows), **runs, **facts, **case.facts}


def _cost(arm: Arm, flops: bool) -> dict[str, Any]:
    """Of one action, without the diagnostics that a critic gives where the action asks none."""
    critic = arm.critic if "critic" in arm.recipe.asks else None
    actor = Actor(arm.policy, critic, arm.recipe, arm.parts)
    return {"calls": actor.calls} | ({"flops": actor.flops} if flops else {})
