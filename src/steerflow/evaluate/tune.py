"""Tuning every method with equal effort: what is run, on which episodes, and which setting is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerflow.envs.pool import Pool
from steerflow.errors import SteerflowError
from steerflow.evaluate.arms import Actors, Arm, method_name
from steerflow.evaluate.choose import UNTUNED, WAVE, Curve, Point, best, coarse_grid, curves, due, refined, unguided
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import EpisodeRow, read_rows, rows_path
from steerflow.evaluate.summary import SCALE, natural_scale
from steerflow.evaluate.timing import Timing, add_timing
from steerflow.progress import Bar, bar, console

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.part import Part
    from steerflow.policy import Policy
    from steerflow.steer.recipe import Recipe

_SCALE_EPISODES = 4


@dataclass
class _Method:
    """A method while its strength is being tuned."""

    name: str
    recipe: Recipe
    tried: list[float] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)

    @property
    def tuned(self) -> str | None:
        """What is tuned: the weight of a guided method, else the number of candidates, else nothing."""
        if self.name == UNTUNED:
            return None
        return "weight" if self.recipe.guided else "candidates" if self.recipe.candidates > 1 else None

    def at(self, strength: float) -> Recipe:
        """The recipe at a weight or number of candidates."""
        if self.tuned == "weight":
            return self.recipe.replace(weight=float(strength))
        return self.recipe.replace(candidates=int(strength))

    def points(self, found: Iterable[Curve]) -> Sequence[Point]:
        """This method's own of the tuning curves of one task, policy and critic."""
        mine = method_name(self.name, self.recipe), {**self.recipe.to_json(), self.tuned: 0}
        return next(curve.points for curve in found if (curve.method, curve.recipe) == mine)


@dataclass(frozen=True)
class Effort:
    """What a sweep spends on every method: how many episodes, and how many settings it may try."""

    tune_episodes: int = 20
    test_episodes: int = 100
    # Weights to try for a guided method, or numbers of candidates for one that only searches.
    budget: int = 8
    # The first weights; None for multiples of the natural scale.
    grid: Sequence[float] | None = None
    candidates: Sequence[int] = (4, 16)
    # Test all settings that were tried, not only the chosen one.
    curve: bool = False
    # Seed of the episodes.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tune_episodes < 1 or self.test_episodes < 1 or self.budget < 1:
            raise SteerflowError("A sweep needs at least one tuning episode, one test episode and a budget of one arm.")

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, Sequence) else value for name, value in asdict(self).items()}

    def numbers(self, recipe: Recipe) -> list[float]:
        """Numbers of candidates to try, rising: ``candidates`` and the recipe's own; beyond the budget the nearest to that."""
        own = recipe.candidates
        nearest = sorted({*map(int, self.candidates), own}, key=lambda n: (abs(math.log(n / own)), n))
        return sorted(map(float, nearest[: self.budget]))


class Plan:
    """What a sweep of these recipes will run, whatever comes out: ``episodes`` is the most that it can take."""

    def __init__(self, recipes: Mapping[str, Recipe], effort: Effort) -> None:
        from steerflow.steer.presets import recipe

        self.effort = effort
        self.methods = [_Method(name, r) for name, r in ({"bc": recipe("bc")} | dict(recipes)).items()]
        self.tuned = [m for m in self.methods if m.tuned]
        self.guided = [m for m in self.tuned if m.tuned == "weight"]
        for method in self.tuned:
            if method.tuned == "candidates":
                method.pending = effort.numbers(method.recipe)
        # (method, recipe) of what has nothing to tune, and of the numbers of candidates.
        self.fixed = [(m.name, m.recipe) for m in self.methods if not m.tuned]
        self.planned = [(m.name, m.at(n)) for m in self.tuned for n in m.pending]
        self.fixed += _plain(self.tuned, [one for _, one in self.fixed + self.planned])
        self.names = [m.name for m in self.methods]
        self.scale_episodes = min(_SCALE_EPISODES, effort.tune_episodes)
        most = len(self.fixed) + len(self.planned) + effort.budget * len(self.guided)
        tests = most if effort.curve else len(self.fixed) + len(self.tuned)
        scaling = len(self.guided) * self.scale_episodes
        self.episodes = scaling + most * effort.tune_episodes + tests * effort.test_episodes


@dataclass(frozen=True)
class Tuned:
    """What a sweep did for a method: the arms that it tried on tuning episodes, weight 0 first, and the one it chose."""

    method: str
    # "weight", "candidates", or None where there is nothing to tune.
    tuned: str | None
    tried: tuple[Arm, ...]
    chosen: Arm


def recipes_of(methods: Sequence[str] | Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Recipes by name, of names of presets or as they are; raises with the nearest names for an unknown one."""
    from steerflow.steer.presets import recipe

    return dict(methods) if isinstance(methods, Mapping) else {name: recipe(name) for name in methods}


def tune_and_test(
    run: Path,
    policy: Policy,
    critic: Critic | None,
    parts: Mapping[str, Part],
    plan: Plan,
    pool: Pool,
    actors: Actors,
    progress: EpisodeBar,
) -> tuple[list[Tuned], Timing]:
    """Run what the plan says on the pool's task, into the run's rows; what is there is not run again."""
    effort, guided, whole = plan.effort, plan.guided, Timing()
    path = rows_path(run, pool.task)

    def arm(name: str, recipe: Recipe) -> Arm:
        return Arm.of(name, policy, critic, recipe, parts)

    def rows_of(
        arms: Sequence[Arm], split: str, episodes: range | Mapping[str, range], file: Path = path
    ) -> list[EpisodeRow]:
        spent = Timing()
        try:
            return evaluate(
                arms, episodes, split, pool, file,
                seed=effort.seed, actors=actors, on_row=progress.row, timing=spent,
            )  # fmt: skip
        finally:
            add_timing(run, spent)
            whole.add(spent)

    fixed, planned = ([arm(*one) for one in some] for some in (plan.fixed, plan.planned))
    unscaled = [m for m in guided if effort.grid is None]
    probes = [arm(m.name, m.at(0.0)) for m in unscaled]
    # All that will be needed is compiled from the first episode on, while environments are built and probed.
    actors.prepare([*probes, *fixed, *planned, *(arm(m.name, m.recipe) for m in guided)])
    probed = rows_of(probes, "tune", range(plan.scale_episodes), rows_path(run, pool.task, SCALE))
    for method in guided:
        scale = (
            natural_scale([row for row in probed if row.recipe == method.at(0.0).to_json()])
            if method in unscaled
            else 1.0
        )
        method.pending = coarse_grid(scale or 1.0, effort.grid, effort.budget)

    rows: list[EpisodeRow] = []
    tuning: list[Curve] = []
    every, tried = effort.tune_episodes, {a.name: a for a in fixed}
    asked = dict.fromkeys(tried, range(every))
    while True:
        pending = {a.name: a for a in (arm(m.name, m.at(strength)) for m in plan.tuned for strength in m.pending)}
        tried |= pending
        asked |= dict.fromkeys(pending, range(min(WAVE, every)))
        if not asked:
            break
        expected = len(rows) + len(asked) * every
        while asked:
            rows += rows_of([tried[name] for name in asked], "tune", asked)
            tuning = curves(rows)
            asked = _due(plan.tuned, tuning, every)
        progress.skip(expected - len(rows))
        for method in plan.tuned:
            method.tried += method.pending
            left = effort.budget - len(method.tried) if method in guided else 0
            proposed = refined(method.points(tuning)) if left > 0 else []
            method.pending = [w for w in proposed if w not in method.tried][:left]

    found = []
    for method in plan.methods:
        points = method.points(tuning) if method.tuned else []
        own = [tried[p.arm] for p in points] or [arm(method.name, method.recipe)]
        chosen = tried[best(points).arm] if points else own[0]
        found.append(Tuned(method.name, method.tuned, tuple(own), chosen))
    results = {a.name: a for a in fixed} | {one.chosen.name: one.chosen for one in found}
    # The file may hold strengths of earlier sweeps too; all that were tuned count in the summary.
    mine = [a.fingerprints for a in (*fixed, *(arm(m.name, m.recipe) for m in plan.tuned))]
    known = curves([r for r in read_rows(path) if r.task == pool.task and r.fingerprints in mine])
    for method in plan.tuned:
        points = method.points(known)
        for point in points if effort.curve else [best(points)]:
            # Strength 0 is one of the fixed arms.
            if point.strength > 0:
                results.setdefault(point.arm, arm(method.name, method.at(point.strength)))
    rows_of([*results.values()], "test", range(effort.test_episodes))
    progress.finish()
    if whole.steps:
        console().print(whole.line(), style="dim", highlight=False)
    return found, whole


def _due(tuned: Sequence[_Method], found: Sequence[Curve], whole: int) -> dict[str, range]:
    """The episodes that arms must run next, by name, so that every method's choice is settled."""
    needed: dict[str, range] = {}
    for method in tuned:
        for name, numbers in due(method.points(found), whole).items():
            # Two methods can share an arm.
            needed[name] = max(needed.get(name, numbers), numbers, key=len)
    return needed


def _plain(tuned: Sequence[_Method], planned: Sequence[Recipe]) -> list[tuple[str, Recipe]]:
    """(method, recipe) of every guided method at weight 0, where it is not among the planned recipes."""
    from steerflow.steer.presets import PRESETS
    from steerflow.steer.recipe import Recipe

    found: list[tuple[str, Recipe]] = []
    for method in tuned:
        zero = Recipe.from_json(unguided(method.recipe.to_json()))
        if method.tuned == "weight" and zero not in [*planned, *(recipe for _, recipe in found)]:
            alike = [n for n, r in PRESETS.items() if not r.guided and _search(r) == _search(zero)]
            found.append((alike[0] if alike else method.name, zero))
    return found


def _search(recipe: Recipe) -> tuple:
    return type(recipe.noise), recipe.refine, recipe.select, recipe.candidates > 1


class EpisodeBar:
    """Counts ``total`` episodes from ``start`` on and names the arm of the latest, after ``where``."""

    def __init__(self, shown: Bar, total: int, start: int = 0, where: str = "") -> None:
        self._shown, self._end, self._done, self._where = shown, start + total, start, where

    def row(self, row: EpisodeRow, known: bool) -> None:
        # Arms that an earlier sweep liked best are tested too, beyond the plan.
        self._done = min(self._done + 1, self._end)
        show = self._shown.skip if known else self._shown.update
        show(self._done, f"{self._where}{row.split} {row.arm}")

    def skip(self, episodes: int) -> None:
        """Episodes that need not be run."""
        self._done = min(self._done + episodes, self._end)
        self._shown.skip(self._done)

    def finish(self, note: str = "") -> None:
        """Refining can stop before its budget is spent."""
        self._shown.skip(self._end, note)


@contextmanager
def episode_bar(description: str, total: int) -> Iterator[EpisodeBar]:
    """A progress bar over episodes; its ``row`` is an ``on_row`` of ``evaluate``."""
    with bar(description, total) as shown:
        yield EpisodeBar(shown, total)
