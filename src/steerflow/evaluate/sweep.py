"""The honest comparison: strengths are chosen on tuning episodes and reported on others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerflow.envs.pool import Pool
from steerflow.envs.tasks import canonical_task
from steerflow.errors import SteerflowError
from steerflow.evaluate.arms import Actors, Arm, method_name
from steerflow.evaluate.choose import Point, best, coarse_grid, curves, refined, unguided
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import EpisodeRow, read_rows, rows_path
from steerflow.evaluate.summary import SCALE, arm_line, arm_summary, natural_scale, summarise
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
        return "weight" if self.recipe.guided else "candidates" if self.recipe.candidates > 1 else None

    def at(self, strength: float) -> Recipe:
        """The recipe at a weight or number of candidates."""
        if self.tuned == "weight":
            return self.recipe.replace(weight=float(strength))
        return self.recipe.replace(candidates=int(strength))

    def points(self, rows: Sequence[EpisodeRow]) -> Sequence[Point]:
        """This method's tuning curve in rows of one task, policy and critic."""
        recipe = {**self.recipe.to_json(), self.tuned: 0}
        return next(
            c.points for c in curves(rows) if (c.method, c.recipe) == (method_name(self.name, self.recipe), recipe)
        )


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
    velocity's norm to that of what weight 1 adds, measured on a few tuning episodes), then weights around the
    best so far. Methods without guidance but with candidates get each of ``candidates`` and the preset's own number, on
    the same episodes. Weight 0, plain behaviour cloning, is always an arm. Reported are behaviour cloning and each
    method's chosen arm; with ``curve`` the other tuned strengths too, which shows the whole curve and how optimistic a
    maximum over it is.

    Killed and run again it continues, and ends with the same rows. ``methods``: presets, or recipes by name. ``policy``,
    ``critic`` and ``parts``: artefacts; the run's own where they are asked and not given.
    """
    run, task = Path(run), canonical_task(task)
    if tune_episodes < 1 or test_episodes < 1 or budget < 1:
        raise SteerflowError("A sweep needs at least one tuning episode, one test episode and a budget of one arm.")
    with ExitStack() as stack:
        # First the pool: its workers start while jax does.
        pool = pool or stack.enter_context(Pool(task, workers, lanes))
        from steerflow.load import load_parts
        from steerflow.part import by_kind
        from steerflow.steer.presets import recipe

        recipes = dict(methods) if isinstance(methods, Mapping) else {name: recipe(name) for name in methods}
        policy, critic, used = load_parts(
            run, task, recipes.values(), policy=policy, critic=critic, parts=by_kind(parts)
        )
        all_methods = [_Method(name, r) for name, r in ({"bc": recipe("bc")} | recipes).items()]
        tuned = [m for m in all_methods if m.tuned]

        def arm(name: str, recipe: Recipe) -> Arm:
            return Arm.of(name, policy, critic, recipe, used)

        for method in tuned:
            if method.tuned == "candidates":
                method.pending = sorted({float(n) for n in (*candidates, method.recipe.candidates)})
        fixed = [arm(m.name, m.recipe) for m in all_methods if not m.tuned]
        planned = [arm(m.name, m.at(n)) for m in tuned for n in m.pending]
        fixed += [arm(*zero) for zero in _plain(tuned, [a.recipe for a in fixed + planned])]
        guided = [m for m in tuned if m.tuned == "weight"]
        most = len(fixed) + len(planned) + budget * len(guided)
        tests = most if curve else len(fixed) + len(tuned)
        scale_episodes = min(_SCALE_EPISODES, tune_episodes)
        total = len(guided) * scale_episodes + most * tune_episodes + tests * test_episodes
        progress = stack.enter_context(episode_bar(f"Evaluating {task}", total))
        path, shared, whole = rows_path(run, task), actors or Actors(), Timing()

        def rows_of(arms: Sequence[Arm], split: str, episodes: int, file: Path = path) -> list[EpisodeRow]:
            spent = Timing()
            try:
                return evaluate(
                    arms, range(episodes), split, pool, file,
                    seed=seed, actors=shared, on_row=progress.row, timing=spent,
                )  # fmt: skip
            finally:
                add_timing(run, spent)
                whole.add(spent)

        unscaled = [m for m in guided if grid is None]
        probes = [arm(m.name, m.at(0.0)) for m in unscaled]
        # All that will be needed is compiled from now on, while environments are built and probed.
        shared.prepare([*probes, *fixed, *planned, *(arm(m.name, m.recipe) for m in guided)])
        probed = rows_of(probes, "tune", scale_episodes, rows_path(run, task, SCALE))
        for method in guided:
            scale = (
                natural_scale([row for row in probed if row.recipe == method.at(0.0).to_json()])
                if method in unscaled
                else 1.0
            )
            method.pending = coarse_grid(scale or 1.0, grid)[:budget]

        rows: list[EpisodeRow] = []
        batch = list(fixed)
        while batch := batch + [arm(m.name, m.at(strength)) for m in tuned for strength in m.pending]:
            rows += rows_of(batch, "tune", tune_episodes)
            batch = []
            for method in tuned:
                method.tried += method.pending
                left = budget - len(method.tried) if method in guided else 0
                proposed = refined(method.points(rows)) if left > 0 else []
                method.pending = [w for w in proposed if w not in method.tried][:left]

        # The file may hold strengths of earlier sweeps too; all that were tuned count, as they do in the summary.
        mine = [a.fingerprints for a in (*fixed, *(arm(m.name, m.recipe) for m in tuned))]
        known = [r for r in read_rows(path) if r.task == task and r.fingerprints in mine]
        results = {a.name: a for a in fixed}
        for method in tuned:
            points = method.points(known)
            for point in points if curve else [best(points)]:
                # Strength 0 is one of the fixed arms.
                if point.strength > 0:
                    results.setdefault(point.arm, arm(method.name, method.at(point.strength)))
        rows_of(list(results.values()), "test", test_episodes)
        progress.finish()
    if whole.steps:
        console().print(whole.line(), style="dim", highlight=False)
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
    **changes: Any,
) -> list[dict[str, Any]]:
    """Evaluate one method of a run at a fixed strength beside behaviour cloning; returns their entries of the summary.

    ``changes`` are fields of the recipe: ``weight=0.1``, ``solver="heun"``. Rows that are there are reused. Choosing a
    weight by looking at several results on the test split is optimistic: use ``sweep``, or ``split="tune"``.
    """
    run, task = Path(run), canonical_task(task)
    with Pool(task, workers, lanes) as pool:
        # After the pool: its workers start while jax does.
        from steerflow.load import load_parts
        from steerflow.steer.presets import recipe

        chosen = recipe(method, **changes)
        policy, critic, parts = load_parts(run, task, [chosen])
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
    return recipe.refine, recipe.select, recipe.candidates > 1


class _EpisodeBar:
    """Counts episodes and names the arm of the latest."""

    def __init__(self, shown: Bar, total: int) -> None:
        self._shown, self._total, self._done = shown, total, 0

    def row(self, row: EpisodeRow) -> None:
        self._done += 1
        self._shown.update(self._done, f"{row.split} {row.arm}")

    def finish(self) -> None:
        """Refining can stop before its budget is spent."""
        self._shown.update(self._total)


@contextmanager
def episode_bar(description: str, total: int) -> Iterator[_EpisodeBar]:
    """A progress bar over episodes; its ``row`` is an ``on_row`` of ``evaluate``."""
    with bar(description, total) as shown:
        yield _EpisodeBar(shown, total)
