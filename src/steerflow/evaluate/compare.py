"""The fair comparison: every method with the same effort on the same episodes, over runs and tasks, as one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerflow.artefact import package_versions, read_json, write_json
from steerflow.envs.pool import Pool
from steerflow.envs.tasks import canonical_task, require_known_task
from steerflow.errors import ArtefactError, SteerflowError, unknown
from steerflow.evaluate.arms import Actors, Acts, Arm
from steerflow.evaluate.cost import Costs
from steerflow.evaluate.rows import EpisodeRow, episode_seed, read_rows, rows_path
from steerflow.evaluate.summary import summarise
from steerflow.evaluate.table import Result, results_of, tables
from steerflow.evaluate.tune import Effort, EpisodeBar, Plan, Tuned, recipes_of, tune_and_test
from steerflow.progress import bar
from steerflow.run import find_runs, seeds_of

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.part import Part
    from steerflow.policy import Policy
    from steerflow.steer.recipe import Recipe

# As many settings as six weights.
CANDIDATES = (2, 4, 8, 16, 32, 64)
TABLE = "compare.json"


@dataclass(frozen=True)
class Cell:
    """One task with one run: what all methods of a comparison are measured on."""

    run: Path
    task: str

    @property
    def name(self) -> str:
        """The run's name, with that of its study where it is one seed of several."""
        folder = self.run.resolve()
        return folder.name if folder == self.study else f"{self.study.name}/{folder.name}"

    @property
    def study(self) -> Path:
        """The folder of seeds where the run is one of several, else the run's own."""
        folder = self.run.resolve()
        return folder.parent if folder.name.startswith("seed-") else folder


@dataclass(frozen=True)
class Pair:
    """A policy and a critic: each a run, or the folder of an artefact, or None for the run's own."""

    policy: Path | str | None = None
    critic: Path | str | None = None

    def method(self, name: str) -> str:
        """What a method with this pair is called in the table: ``qgf``, ``qgf, critic of other``."""
        return name + "".join(f", {kind} of {place}" for kind, place in vars(self).items() if place is not None)

    @staticmethod
    def without(method: str) -> str:
        """The method alone, which its recipe is known by, of what it is called in the table."""
        return re.split(", (?:policy|critic) of ", method, maxsplit=1)[0]


def compare(
    runs: Sequence[Path | str],
    methods: Sequence[str] | Mapping[str, Recipe],
    out: Path | str,
    *,
    tasks: Sequence[str] = (),
    reference: str | None = None,
    effort: Effort | None = None,
    policies: Sequence[Path | str | None] = (None,),
    critics: Sequence[Path | str | None] = (None,),
    cost: bool = True,
    workers: int | None = None,
    lanes: int = 4,
    make_actor: Callable[[Arm], Acts] | None = None,
    on_table: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Tune and test all ``methods`` with the same ``effort`` on each task with each run; returns ``OUT/compare.json``.

    ``runs``: run folders, or folders of seeds. ``tasks``: by default all that they have critics of; a run takes part in
    those that it has. ``reference``: the method that others are compared with, beside behaviour cloning; by default qgf.
    ``policies`` and ``critics``, each a run or the folder of an artefact, stand in for the runs' own, which None names; with
    several, every method is there with each pair. ``cost`` off leaves out what decisions cost, which is measured once for each
    recipe and size of networks and kept with the rows.

    Episodes go to the runs' own rows, which they share with sweeps: what is there is not run again. So a comparison that
    was killed continues, and a complete one only makes its tables again. The table of what is finished is written after
    each task of a run, and given to ``on_table``. A setting that an earlier sweep tried beyond this effort does not count.

    Raises SteerflowError for what is unknown, missing or does not fit, before any episode is run.
    """
    recipes, out, effort = recipes_of(methods), Path(out), effort or Effort(candidates=CANDIDATES)
    pairs = [Pair(*one) for one in product(dict.fromkeys(policies), dict.fromkeys(critics))]
    names = Plan(recipes, effort).names
    if reference is not None and reference not in names:
        raise unknown("method to compare with", reference, names)
    reference = reference or ("qgf" if "qgf" in names else names[-1])
    cells = cells_of(runs, tasks, own_critic=None in critics)
    for cell, pair in product(cells, pairs):
        _load(cell, recipes, pair)

    costs = Costs(dict.fromkeys(cell.run for cell in cells)) if cost else None
    about = {
        "settings": {**effort.to_json(), "methods": {name: one.to_json() for name, one in recipes.items()}},
        "versions": package_versions(),
        "machine": costs and costs.machine,
    }
    results: list[Result] = []
    facts: list[dict[str, Any]] = []
    table: dict[str, Any] = {}
    most = Plan(recipes, effort).episodes
    with bar("Comparing", most * len(cells) * len(pairs)) as shown:
        for task, members in groupby(enumerate(cells), key=lambda member: member[1].task):
            with PoolWhenNeeded(task, workers, lanes) as pool:
                for number, cell in members:
                    for turn, pair in enumerate(pairs):
                        start = most * (number * len(pairs) + turn)
                        progress = EpisodeBar(shown, most, start, f"{pair.method(cell.name)} {task} ")
                        made_of, plan = _load(cell, recipes, pair), Plan(recipes, effort)
                        tuned, spent = tune_and_test(cell.run, *made_of, plan, pool, Actors(make_actor), progress)
                        if spent.steps:
                            summarise(cell.run)
                        results += _results(cell, pair, tuned, effort, costs, progress)
                        facts.append(_facts(cell, tuned))
                    missing = [{"run": c.name, "task": c.task} for c in cells[number + 1 :]]
                    table = tables(results, pairs[0].method(reference), pairs[0].method("bc")) | {
                        **about,
                        "cells": list(facts),
                        "missing": missing,
                    }
                    out.mkdir(parents=True, exist_ok=True)
                    write_json(out / TABLE, table)
                    if on_table is not None:
                        on_table(table)
    return table


def cells_of(runs: Sequence[Path | str], tasks: Sequence[str] = (), own_critic: bool = True) -> list[Cell]:
    """Task by task, the runs that take part in it; the seeds of a study must have the same tasks.

    Raises SteerflowError for a run that has a critic of none of the tasks, for a task that no run has one of, and for a seed
    that lacks what others have. Without ``own_critic`` a run needs no critics where tasks are named.
    """
    from steerflow.load import tasks_of

    named = list(dict.fromkeys(canonical_task(name) for name in tasks))
    found: dict[str, list[Path]] = {task: [] for task in named}
    for name in dict.fromkeys(runs):
        seeds = find_runs(name)
        known = {run: tasks_of(run) for run in seeds}
        everything = list(dict.fromkeys(task for some in known.values() for task in some))
        wanted = named if named and not own_critic else [t for t in named or everything if t in everything]
        if not wanted:
            raise (
                unknown("task", named[0], everything, _TRAIN.format(run=name))
                if named
                else SteerflowError(f"{name} has no critics, so its tasks are not known. {_TRAIN.format(run=name)}")
            )
        for run, task in ((run, task) for task in wanted for run in seeds):
            if task not in known[run] and own_critic:
                raise SteerflowError(f"{run} has no critic of {task}, which other seeds have. {_TRAIN.format(run=run)}")
            found.setdefault(task, []).append(run)
    for task, members in found.items():
        if not members:
            raise unknown("task", task, {t for t, some in found.items() if some}, "No run has a critic of it.")
    return [Cell(run, require_known_task(task)) for task, members in found.items() for run in dict.fromkeys(members)]


_TRAIN = "Train it: steerflow train critic --run {run} --help"


class PoolWhenNeeded:
    """A pool of a task that starts its workers at its first use: where all rows are there, nothing is started."""

    def __init__(self, task: str, workers: int | None, lanes: int) -> None:
        self.task = require_known_task(task)
        self._size = workers, lanes
        self._pool: Pool | None = None

    def __getattr__(self, name: str) -> Any:
        if self._pool is None:
            self._pool = Pool(self.task, *self._size)
        return getattr(self._pool, name)

    def __enter__(self) -> Any:
        # Whatever a ``Pool`` has.
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()


def _load(cell: Cell, recipes: Mapping[str, Recipe], pair: Pair) -> tuple[Policy, Critic | None, dict[str, Part]]:
    """What the recipes need for this task; raises where it is missing or does not fit together."""
    from steerflow.load import load_critic, load_parts, load_policy

    mine = load_policy(pair.policy) if pair.policy is not None else None
    judge = load_critic(pair.critic, cell.task) if pair.critic is not None else None
    mine, judge, parts = load_parts(cell.run, cell.task, recipes.values(), policy=mine, critic=judge)
    if judge is not None:
        mine.spec.require_same(judge.spec, "policy", "critic")
    for recipe in recipes.values():
        for kind in recipe.asks & parts.keys():
            parts[kind].require_fits(mine, judge, recipe.to_json()["aggregate"])
    return mine, judge, parts


def _results(
    cell: Cell, pair: Pair, tuned: Sequence[Tuned], effort: Effort, costs: Costs | None, progress: EpisodeBar
) -> list[Result]:
    """What the rows say of each method, and what its decisions cost."""
    seeds = {episode_seed(effort.seed, "test", episode) for episode in range(effort.test_episodes)}
    rows: dict[tuple[str, ...], list[EpisodeRow]] = {}
    for row in read_rows(rows_path(cell.run, cell.task)):
        if row.split == "test" and row.seed in seeds:
            rows.setdefault(row.arm_key, []).append(row)
    found = []
    for one in tuned:
        if costs is not None:
            progress.finish(f"cost of {one.chosen.name}")
        tested = [_by_measure(rows.get(arm.key(cell.task, "test"), ())) for arm in one.tried]
        scores = [{m: sum(some) / len(some) for m, some in o.items()} for o in tested if len(o["return"]) == len(seeds)]
        all_tested = len(tested) == len(scores) > 1
        strength = {"weight": one.chosen.recipe.weight, "candidates": one.chosen.recipe.candidates}
        found.append(
            Result(
                method=pair.method(one.method),
                task=cell.task,
                run=cell.name,
                tuned=one.tuned,
                strength=strength[one.tuned] if one.tuned else None,
                arm=one.chosen.name,
                settings=sum(one.tuned != "weight" or bool(arm.recipe.weight) for arm in one.tried),
                outcomes=_by_measure(rows[one.chosen.key(cell.task, "test")]),
                optimistic=max(scores, key=lambda s: (s.get("success", 0.0), s["return"])) if all_tested else None,
                cost=costs.of(one.chosen, cell.run) if costs is not None else None,
            )
        )
    return found


def _by_measure(rows: Sequence[EpisodeRow]) -> dict[str, tuple[float, ...]]:
    """What came of the episodes, in their order."""
    rows = sorted(rows, key=lambda row: row.seed)
    found = {"return": tuple(row.return_ for row in rows)}
    if all(row.success is not None for row in rows):
        found["success"] = tuple(float(bool(row.success)) for row in rows)
    return found


def _facts(cell: Cell, tuned: Sequence[Tuned]) -> dict[str, Any]:
    """Where the rows of a cell are, and the fingerprints by which they are known."""
    names = sorted({arm.fingerprints for one in tuned for arm in one.tried})
    return {"run": cell.name, "folder": str(cell.run), "task": cell.task, "artefacts": [list(some) for some in names]}


def join(
    comparisons: Sequence[Path | str],
    out: Path | str,
    *,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    reference: str | None = None,
) -> dict[str, Any]:
    """One table of the results of several comparisons, such as the pieces of a study; returns ``OUT/compare.json``.

    Nothing is run, and neither runs nor rows are asked for. Without ``methods`` those are there that all comparisons have by
    the same recipe, and ``left_out`` of the table says which are not and why; ``methods`` and ``tasks`` choose. Operations
    and calls of decisions are kept, their times only if one machine measured them all. Raises SteerflowError for comparisons
    of different effort, for the same task and run twice, and for a method by name that would be left out.
    """
    found = {str(name): _read(name) for name in comparisons}
    about = next(iter(found.values()))
    _require_alike(found)
    apart = _apart(found)
    common: list[str] = [entry["method"] for entry in about["methods"] if entry["method"] not in apart]
    for name in (*methods, *([reference] if reference else [])):
        if name in apart:
            raise SteerflowError(f"{name!r} cannot be joined: it is {apart[name]}. Leave it out, or name no methods.")
        if name not in common:
            raise unknown("method", name, common, "It must be in all of the comparisons.")
    kept = [name for name in common if not methods or name in (*methods, reference, about["cloning"])]
    wanted = [canonical_task(name) for name in tasks]
    results = [one for table in found.values() for one in results_of(table) if one.method in kept]
    for task in wanted:
        if all(task != one.task for one in results):
            raise unknown("task", task, {one.task for one in results})
    # Named in the order of names, else by name: pieces may come in any.
    order = wanted or sorted({one.task for one in results})
    results = sorted((one for one in results if one.task in order), key=lambda one: order.index(one.task))
    one_machine = all(table["machine"] == about["machine"] for table in found.values())
    if not one_machine:
        results = [replace(one, cost=one.cost and {**one.cost, "ms": {}}) for one in results]
    if reference is None:
        reference = str(about["reference"]) if about["reference"] in kept else kept[-1]

    def of_pieces(name: str) -> list[dict[str, Any]]:
        return [one for table in found.values() for one in table[name] if not wanted or one["task"] in wanted]

    cells, missing = of_pieces("cells"), {_place(gap): gap for gap in of_pieces("missing")}
    # What one piece lacks another may have.
    for cell in cells:
        missing.pop(_place(cell), None)
    table = tables(results, reference, about["cloning"]) | {
        "settings": about["settings"],
        "versions": about["versions"],
        "machine": about["machine"] if one_machine else None,
        "cells": cells,
        "missing": [*missing.values()],
        "joined": list(found),
        "left_out": {} if methods else apart,
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(Path(out) / TABLE, table)
    return table


def comparison_path(name: Path | str) -> Path | None:
    """The table of a comparison, given as its file, its folder or its name below ./runs; None if it is none.

    A run, or a folder of seeds, into which a comparison was written stays a run.
    """
    for path in (Path(name), Path("runs") / name):
        if path.is_file() and path.suffix == ".json":
            return path
        if (path / TABLE).is_file() and not ((path / "config.toml").exists() or seeds_of(path)):
            return path / TABLE
    return None


def _read(name: Path | str) -> dict[str, Any]:
    path = comparison_path(name)
    table = read_json(path) if path is not None else {}
    if not {"settings", "methods", "tasks", "cells"} <= table.keys():
        raise ArtefactError(f"{name} is no comparison. Name a folder that steerflow compare wrote, or its {TABLE}.")
    return table


def _place(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["run"], cell["task"]


def _apart(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The methods that not all comparisons have by the same recipe, and what tells their comparisons apart."""
    first, *_ = found
    recipes = {name: _recipes(table) for name, table in found.items()}
    apart: dict[str, str] = {}
    for method in dict.fromkeys(one for some in recipes.values() for one in some):
        without = [name for name in found if method not in recipes[name]]
        if without:
            apart[method] = f"not in {', '.join(without)}"
        elif other := next((name for name in found if recipes[name][method] != recipes[first][method]), None):
            apart[method] = f"one recipe in {first} and another in {other}"
    return apart


def _recipes(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Recipes, as JSON, by what methods are called in the table; a weight that was tuned is none of them."""
    found = {}
    for entry in table["methods"]:
        # Cloning is there without having been asked for.
        recipe = table["settings"]["methods"].get(Pair.without(entry["method"]), {})
        found[entry["method"]] = recipe | ({"weight": None} if entry["tuned"] == "weight" else {})
    return found


def _require_alike(found: Mapping[str, Mapping[str, Any]]) -> None:
    """The same effort, no task of a run twice, and outcomes of all episodes."""
    (first, about), *others = found.items()
    seen: dict[tuple[str, str], str] = {}
    for name, table in found.items():
        if any("outcomes" not in run for task in table["tasks"] for one in task["methods"] for run in one["runs"]):
            raise ArtefactError(
                f"{name} was made before tables kept the outcomes of episodes. Call its steerflow compare again: "
                "the rows are there, so nothing is run."
            )
        for cell in table["cells"]:
            # With several pairs of policy and critic a table names a cell several times.
            if (before := seen.setdefault(_place(cell), name)) != name:
                raise SteerflowError(f"{cell['task']} of {cell['run']} is in {before} and in {name}. Leave one out.")
    for name, table in others:
        ours, theirs = about["settings"], table["settings"]
        for what in (what for what in ours if what != "methods" and ours[what] != theirs.get(what)):
            raise SteerflowError(
                f"The effort was not the same: {what} is {ours[what]} in {first} and {theirs.get(what)} in {name}."
            )
