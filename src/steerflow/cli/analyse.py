"""``steerflow analyse WHAT RUN``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from steerflow.analyse.about import COMPARED, FIGURES
from steerflow.cli.runs import RunName, split_names
from steerflow.cli.shell import Command, dispatch, keeping, parse
from steerflow.errors import SteerflowError

if TYPE_CHECKING:
    from steerflow.analyse.draw import Panel
    from steerflow.data.store import DataSet

COMMANDS = {what: Command(f"steerflow.cli.analyse:{what}", about.summary) for what, about in FIGURES.items()}
_ABOUT = "Why steering works, or does not: a figure as data and plot, RUN/analysis/WHAT.json and WHAT.png."

# Columns of the table on the terminal: entries of points by header.
_EVALUATED = {"line": "line", "arm": "arm", "success": "success", "episodes": "episodes", "return": "mean_return"}
_COLUMNS = {
    "direction": {
        "guidance": "guidance",
        "cosine": "cosine",
        "minus the first": "minus_first",
        "spread": "norm_spread",
    },
    "q": {"arm": "arm", "success": "success", "Q above cloning's": "q_gain", "distance": "distance"},
    "transfer": {"schedule": "schedule", "weight": "weight", "tuned": "tuned", "left out": "left_out", "one": "one"},
}

_Tasks = Annotated[tuple[str, ...], arg(aliases=("--task",))]
_Methods = Annotated[tuple[str, ...], arg(aliases=("--method",))]
_Runs = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN RUN ...")]


@dataclass(frozen=True, kw_only=True)
class _Figure:
    # Tasks, a row of the plot each; by default all that the run has critics of.
    tasks: _Tasks = ()
    # Seed of the episodes and of what is drawn from the data.
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _OfData(_Figure):
    # Run folder, or its name below ./runs.
    run: RunName
    # Data set; by default that of the policy.
    data: str = ""
    # Held-out states of the data.
    states: int = 256


@dataclass(frozen=True, kw_only=True)
class _Evaluated(_Figure):
    # Test episodes of each point.
    episodes: int = 50
    # Tuning episodes on which each weight is tried.
    tune_episodes: int = 20
    # Weights to try for each method: a coarse grid first, then around the best.
    budget: int = 8
    # The first weights to try; by default multiples of the natural scale |velocity| / |critic's gradient|.
    grid: tuple[float, ...] = ()
    # Processes that step environments; by default one for each core.
    workers: int | None = None
    # Environments in a process.
    lanes: int = 4


@dataclass(frozen=True, kw_only=True)
class _OfRun(_Evaluated):
    # Run folder, or its name below ./runs.
    run: RunName


@dataclass(frozen=True, kw_only=True)
class _OfRuns(_Evaluated):
    # Run folders, or their names below ./runs; the figure is written to the first.
    runs: _Runs


@dataclass(frozen=True, kw_only=True)
class Direction(_OfData):
    __doc__ = FIGURES["direction"].help
    # Guidances to compare, as recipes name them, such as "jacobian(share=0.5)"; an unknown name lists all.
    guidances: Annotated[tuple[str, ...], arg(aliases=("--guidance",))] = COMPARED
    # Flow times from 0, noise, to below 1, the action.
    times: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    # Standard deviations of the noise on a_t; actions span -1 to 1.
    scales: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    # Noises for each state, flow time and scale.
    draws: int = 8


@dataclass(frozen=True, kw_only=True)
class Q(_OfData):
    __doc__ = FIGURES["q"].help
    # Methods; by default all that have episode rows: make some with `steerflow sweep RUN --curve`.
    methods: _Methods = ()
    # Further weights of guided methods; without episodes their success is not known.
    weights: tuple[float, ...] = ()
    # Recorded pairs of state and action among which the nearest neighbour is sought.
    recorded: int = 20_000


@dataclass(frozen=True, kw_only=True)
class Weight(_OfRun):
    __doc__ = FIGURES["weight"].help
    # Guided methods.
    methods: _Methods = ("qgf",)


@dataclass(frozen=True, kw_only=True)
class Candidates(_OfRun):
    __doc__ = FIGURES["candidates"].help
    # The guided method beside behaviour cloning.
    method: str = "qgf"
    # Numbers of candidates.
    numbers: tuple[int, ...] = (1, 2, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Flops(Candidates):
    __doc__ = FIGURES["flops"].help
    # Other methods, each at its chosen weight.
    others: tuple[str, ...] = ("fast",)


@dataclass(frozen=True, kw_only=True)
class Size(_OfRuns):
    __doc__ = FIGURES["size"].help
    # Methods beside behaviour cloning.
    methods: _Methods = ("qgf",)


@dataclass(frozen=True, kw_only=True)
class Critic(_OfRuns):
    __doc__ = FIGURES["critic"].help
    # How the policies are steered.
    method: str = "qgf"


@dataclass(frozen=True, kw_only=True)
class Steps(_OfRun):
    __doc__ = FIGURES["steps"].help
    # How the policy is steered.
    method: str = "qgf"
    # Solvers: euler, midpoint, heun, rk4.
    solvers: tuple[str, ...] = ("euler", "heun")
    # Numbers of steps.
    numbers: tuple[int, ...] = (2, 5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class Schedule(_OfRun):
    __doc__ = FIGURES["schedule"].help
    # How the policy is steered.
    method: str = "qgf"
    # Schedules, as a recipe names them.
    shapes: tuple[str, ...] = (
        "constant",
        "ramp",
        "ramp(first=1.0, last=0.0)",
        "window(start=0.5)",
        "window(stop=0.5)",
    )


@dataclass(frozen=True, kw_only=True)
class Chunk(_OfRuns):
    __doc__ = FIGURES["chunk"].help
    # Methods beside behaviour cloning.
    methods: _Methods = ("qgf",)


@dataclass(frozen=True, kw_only=True)
class Pessimism(_OfRun):
    __doc__ = FIGURES["pessimism"].help
    # Methods, each with each of the aggregates.
    methods: _Methods = ("qgf", "qgf_best_of_n")
    # How the critics become one Q.
    aggregates: tuple[str, ...] = ("min", "mean", "mean_minus_std(k=1.0)", "mean_minus_std(k=3.0)")
    # Methods that weigh the critics themselves, as they are.
    others: tuple[str, ...] = ("qgf_consensus",)
    # Numbers of critics; by default 2, 5 and 10, as far as the ensemble goes (`--critic.ensemble` of training).
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Transfer(_Figure):
    __doc__ = FIGURES["transfer"].help
    # Run folders, or folders of seeds; each of their tasks is one that the weight has to serve. The figure goes to the first.
    runs: _Runs
    # How the policies are steered.
    method: str = "qgf"
    # Schedules, as a recipe names them; by default all that claim one unit for all, beside the constant one.
    schedules: tuple[str, ...] = ()
    # Test episodes of each chosen weight.
    episodes: int = 100
    # Tuning episodes on which each weight is tried.
    tune_episodes: int = 20
    # Weights to try, as multiples of the natural scale's geometric mean over the tasks.
    multiples: tuple[float, ...] = (0.03, 0.06, 0.12, 0.25, 0.5)
    # Processes that step environments; by default one for each core.
    workers: int | None = None
    # Environments in a process.
    lanes: int = 4


def analyse(arguments: list[str]) -> None:
    dispatch("steerflow analyse", COMMANDS, arguments, _ABOUT)


def direction(arguments: list[str]) -> None:
    config = parse(Direction, arguments, prog="steerflow analyse direction")
    from steerflow.analyse.direction import run_direction
    from steerflow.analyse.panels import direction_panels
    from steerflow.run import find_run

    options = {name: getattr(config, name) for name in ("guidances", "times", "scales", "states", "draws", "seed")}
    points, made = _of_data(config, lambda run, task, of: run_direction(run, task, of, **options))
    _finish("direction", arguments, config, find_run(config.run), points, direction_panels(points), made)


def q(arguments: list[str]) -> None:
    config = parse(Q, arguments, prog="steerflow analyse q")
    from steerflow.analyse.panels import value_panels
    from steerflow.analyse.values import run_values
    from steerflow.run import find_run

    options = {name: getattr(config, name) for name in ("weights", "states", "recorded", "seed")}
    names = split_names(config.methods)
    points, made = _of_data(config, lambda run, task, of: run_values(run, task, of, methods=names, **options))
    _finish("q", arguments, config, find_run(config.run), points, value_panels(points), made)


def weight(arguments: list[str]) -> None:
    _evaluated("weight", Weight, arguments)


def candidates(arguments: list[str]) -> None:
    _evaluated("candidates", Candidates, arguments)


def flops(arguments: list[str]) -> None:
    _evaluated("flops", Flops, arguments)


def size(arguments: list[str]) -> None:
    _evaluated("size", Size, arguments)


def critic(arguments: list[str]) -> None:
    _evaluated("critic", Critic, arguments)


def steps(arguments: list[str]) -> None:
    _evaluated("steps", Steps, arguments)


def schedule(arguments: list[str]) -> None:
    _evaluated("schedule", Schedule, arguments)


def chunk(arguments: list[str]) -> None:
    _evaluated("chunk", Chunk, arguments)


def pessimism(arguments: list[str]) -> None:
    _evaluated("pessimism", Pessimism, arguments)


def transfer(arguments: list[str]) -> None:
    config = parse(Transfer, arguments, prog="steerflow analyse transfer")
    from steerflow.analyse.panels import transfer_panels
    from steerflow.analyse.transfer import SCHEDULES
    from steerflow.analyse.transfer import transfer as measure
    from steerflow.evaluate.compare import cells_of

    options = {
        name: getattr(config, name) for name in ("multiples", "tune_episodes", "episodes", "seed", "workers", "lanes")
    }
    cells = cells_of(config.runs, config.tasks)
    keeping("Finished episodes are in the runs' evaluations.")
    found = measure(cells, config.method, config.schedules or SCHEDULES, **options)
    shown = []
    for entry in found["schedules"]:
        means = {k: v for k, v in entry.items() if isinstance(v, dict)}
        ends = {f"{k}_{end}": v[f"ci_{end}"] for k, v in means.items() for end in ("low", "high")}
        shown.append({"task": "mean over all", **entry, **{k: v["success"] for k, v in means.items()}, **ends})
    panels = transfer_panels(found)
    _finish("transfer", arguments, config, cells[0].run, found.pop("points"), panels, found, shown)


def _of_data(
    config: _OfData, measured: Callable[[Path, str, DataSet], list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The points of all tasks, and the facts of the data."""
    from steerflow.cli.runs import require_tasks
    from steerflow.data.store import DataSet
    from steerflow.run import data_of, find_run

    run = find_run(config.run)
    data = DataSet.open(config.data or data_of(run))
    points = [point for task in require_tasks(run, config.tasks) for point in measured(run, task, data)]
    facts = {"name": data.name, "fingerprint": data.train.fingerprint, "transitions": data.train.transitions}
    return points, {"data": facts}


def _evaluated(what: str, kind: type[_Evaluated], arguments: list[str]) -> None:
    """A figure of evaluations: what its config has beyond the common settings are arguments of the figure."""
    config = parse(kind, arguments, prog=f"steerflow analyse {what}")
    from steerflow.cli.runs import require_tasks
    from steerflow.envs.pool import Pool

    runs, points = _runs(what, config), []
    keeping(f"Finished episodes are in {runs[0] / 'evaluations'}.")
    shared = {f.name for base in (_OfRun, _OfRuns) for f in fields(base)}
    options = {name: value for name, value in vars(config).items() if name not in shared}
    options |= {name: split_names(options[name]) for name in ("methods", "others", "solvers") if name in options}
    for task in require_tasks(runs[0], config.tasks):
        with Pool(task, config.workers, config.lanes) as pool:
            # After the pool: its workers start while jax does.
            from steerflow.analyse import figures
            from steerflow.analyse.measure import Lab

            settings = {name: getattr(config, name) for name in ("episodes", "tune_episodes", "budget", "grid", "seed")}
            points += getattr(figures, what)(Lab(task, pool, **settings), runs, **options)
    from steerflow.analyse.figures import AXES
    from steerflow.analyse.panels import success_panels

    _finish(what, arguments, config, runs[0], points, success_panels(points, AXES[what]), {})


def _runs(what: str, config: Any) -> list[Path]:
    from steerflow.run import find_run

    names = config.runs if isinstance(config, _OfRuns) else (config.run,)
    if isinstance(config, _OfRuns) and len(set(names)) < 2:
        raise SteerflowError(f"This figure compares runs; give two or more: steerflow analyse {what} RUN RUN")
    return [find_run(name) for name in names]


def _finish(
    what: str,
    arguments: Sequence[str],
    config: _Figure,
    run: Path,
    points: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[Panel]],
    made: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write the figure, show its points (or what is ``shown`` of them) as a table, and print the paths. ``made``: what it was
    made of."""
    from steerflow.analyse.write import write_analysis
    from steerflow.cli.table import show_points

    command = shlex.join(["steerflow", "analyse", what, *arguments])
    paths = write_analysis(run, what, points, rows, {"command": command, "settings": asdict(config), **made})
    if shown is None:
        # Of what is measured at several flow times and scales, the means over these.
        shown = [point for point in points if point.get("time") is None and point.get("scale") is None]
    show_points(FIGURES[what].title, shown, _COLUMNS.get(what, _EVALUATED))
    for path in paths:
        print(path)
