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
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import EpisodeRow, rows_path
from steerflow.evaluate.summary import arm_summary, summarise
from steerflow.evaluate.timing import Timing, add_timing
from steerflow.evaluate.tune import Effort, Plan, Tuned, episode_bar, tune_and_test
from steerflow.load import load_parts
from steerflow.policy import Policy
from steerflow.steer.actor import Actor
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
    # So many of the ensemble's critics are asked; None for all.
    critics: int | None = None
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
        self._costs: dict[tuple, dict[str, Any]] = {}
        # Actors are kept by the identity of their networks: each artefact is loaded once.
        self._policy = cache(lambda run: Policy.load(run / "policy"))
        whole = cache(lambda run: Critic.load(run / "critic" / self.task))
        self.critic = cache(lambda run, count=None: whole(run) if count is None else whole(run).first(count))

    def measure(self, cases: Sequence[Case], flops: bool = False) -> list[dict[str, Any]]:
        """The points of the cases, in order. What has rows in ``RUN/evaluations`` is not run again.

        Each has the network ``calls`` of an action, and with ``flops`` its floating-point operations, which takes seconds.
        Raises ArtefactError for a policy or critic that is missing, MismatchError for those that do not fit together.
        """
        groups: dict[tuple[Path, Path | None, int | None], list[Case]] = {}
        for case in cases:
            groups.setdefault((case.run, case.critic_run, case.critics), []).append(case)
        found: dict[int, list[dict[str, Any]]] = {}
        for (run, *_), group in groups.items():
            arms = self._arms(group)
            tuned = self._tune(run, [arm for case, arm in zip(group, arms, strict=True) if case.strength != "given"])
            shown = [_shown(case, arm, tuned) for case, arm in zip(group, arms, strict=True)]
            rows = self._evaluate(run, [arm for some in shown for arm in some])
            for case, some in zip(group, shown, strict=True):
                found[id(case)] = [_point(case, arm, tuned, rows[arm.name]) | self._cost(arm, flops) for arm in some]
        return [point for case in cases for point in found[id(case)]]

    def _arms(self, group: Sequence[Case]) -> list[Arm]:
        """The arm of each case, at its recipe's strength."""
        run, critic_run, count = group[0].run, group[0].critic_run, group[0].critics
        own = (run / "critic" / self.task).exists()
        policy, critic = self._policy(run), self.critic(critic_run or run, count) if critic_run or own else None
        if critic is not None:
            policy.spec.require_same(critic.spec, f"policy of {run}", f"critic of {critic_run or run}")
        recipes = [case.recipe for case in group]
        policy, critic, parts = load_parts(run, self.task, recipes, policy=policy, critic=critic)
        return [Arm.of(case.name, policy, critic, case.recipe, parts) for case in group]

    def _tune(self, run: Path, arms: Sequence[Arm]) -> dict[str, Tuned]:
        """What was tried and chosen for each of the arms, by method."""
        if not arms:
            return {}
        effort = Effort(self.tune_episodes, self.episodes, self.budget, self.grid or None, seed=self.seed)
        plan = Plan({arm.method: arm.recipe for arm in arms}, effort)
        parts = {kind: part for arm in arms for kind, part in arm.parts.items()}
        with episode_bar(f"Tuning on {self.task}", plan.episodes) as progress:
            tuned, _ = tune_and_test(run, arms[0].policy, arms[0].critic, parts, plan, self.pool, self.actors, progress)
        return {one.method: one for one in tuned}

    def _evaluate(self, run: Path, arms: Sequence[Arm]) -> dict[str, list[EpisodeRow]]:
        """The test rows of the arms, by name."""
        different, spent = {arm.name: arm for arm in arms}, Timing()
        with episode_bar(f"Evaluating {self.task}", len(different) * self.episodes) as progress:
            rows = evaluate(
                [*different.values()], range(self.episodes), "test", self.pool, rows_path(run, self.task),
                seed=self.seed, actors=self.actors, on_row=progress.row, timing=spent,
            )  # fmt: skip
        add_timing(run, spent)
        summarise(run)
        return {name: [row for row in rows if row.arm == name] for name in different}

    def _cost(self, arm: Arm, flops: bool) -> dict[str, Any]:
        """Of one action, without the diagnostics that a critic gives where the action asks none."""
        critic = arm.critic if "critic" in arm.recipe.asks else None
        key = (id(arm.policy), id(critic), str(arm.recipe.structure().to_json()))
        if key not in self._costs or (flops and "flops" not in self._costs[key]):
            actor = Actor(arm.policy, critic, arm.recipe, arm.parts)
            self._costs[key] = {"calls": actor.calls} | ({"flops": actor.flops} if flops else {})
        return self._costs[key]


def _shown(case: Case, arm: Arm, tuned: Mapping[str, Tuned]) -> list[Arm]:
    """The arms whose test episodes a case shows."""
    if case.strength == "given":
        return [arm]
    return [*tuned[case.name].tried] if case.strength == "curve" else [tuned[case.name].chosen]


def _point(case: Case, arm: Arm, tuned: Mapping[str, Tuned], rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    runs = {"run": str(case.run), "critic_run": str(case.critic_run or case.run)}
    point = {"line": case.line, **arm_summary(rows), **runs, **case.facts}
    if case.strength == "given":
        return point
    one = tuned[case.name]
    strength = arm.recipe.weight if one.tuned == "weight" else arm.recipe.candidates
    point |= {"strength": strength, "tried": len(one.tried)}
    return point | ({"chosen": arm.name == one.chosen.name} if case.strength == "curve" else {})
