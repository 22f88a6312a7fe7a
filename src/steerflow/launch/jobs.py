"""The job file: stages of commands over a matrix of values, read into a list of jobs."""

from __future__ import annotations

import fnmatch
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from steerflow.errors import SteerflowError, unknown

EXAMPLE = """\
# Train policies and critics on three tasks with two seeds each, then compare two methods on every run.
# Look at it: steerflow launch study.toml --dry-run        Run it: steerflow launch study.toml

[matrix]  # a command becomes one job for each combination of the {values} that it uses
task = [1, 2, 3]
seed = [0, 1]

[[job]]
command = "data make cube-single-play --transitions 500000"
cpus = 8

[[job]]
command = '''train both --data cube-single-play --task cube-single-singletask-task{task}-v0 --seed {seed}
             --updates 100000 --run runs/task{task}-{seed}'''
needs = "data"  # a job is named by the first word of its command; or give it a name = "..."
cpus = 4
gpus = 1
memory_gb = 16
hours = 12  # a limit for SLURM's queue; a job that has not ended by then is queued again and continues

[[job]]
command = "sweep runs/task{task}-{seed} --method qgf,best_of_n"
needs = "train"  # of the same task and seed
cpus = 4

[slurm]  # only for --on slurm: any of submitit's parameters
partition = "gpu"
"""

_AXIS = re.compile(r"\{(\w+)\}")
_VALUES = (str, int, float, bool)


@dataclass(frozen=True)
class Resources:
    """What a job asks of a node that it shares with others."""

    cpus: int = 1
    gpus: int = 0
    # None leaves it to the engine.
    memory_gb: float | None = None
    # SLURM's limit of one attempt.
    hours: float = 24.0


@dataclass(frozen=True)
class Job:
    """One command line: the arguments of ``steerflow``, and the names of the jobs that must be done before."""

    name: str
    stage: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)

    @property
    def command(self) -> str:
        """What a person would type."""
        return shlex.join(["steerflow", *self.arguments])


@dataclass(frozen=True)
class JobFile:
    """All jobs, each after those that it needs, and the parameters for SLURM."""

    jobs: tuple[Job, ...]
    slurm: Mapping[str, Any]


@dataclass(frozen=True)
class _Stage:
    name: str
    command: str
    axes: tuple[str, ...]
    needs: tuple[str, ...]
    resources: Resources


def read_jobs(path: Path) -> JobFile:
    """The jobs of a TOML file; see EXAMPLE.

    A stage's command becomes one job for each combination of the values that it names; a job needs those of an earlier
    stage that agree with it in all values that both name. Raises SteerflowError for anything that is not understood.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise SteerflowError(
            f"Could not read {path}: {error.strerror}. An example: steerflow launch --example"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SteerflowError(f"{path} is not valid TOML ({error}). An example: steerflow launch --example") from error
    for key in tables:
        if key not in ("matrix", "job", "slurm"):
            raise unknown("table", key, ("matrix", "job", "slurm"), f"It is in {path}.")
    matrix = _matrix(path, tables.get("matrix", {}))
    stages: dict[str, _Stage] = {}
    tables_of_jobs = tables.get("job", [])
    if not isinstance(tables_of_jobs, list) or not tables_of_jobs:
        raise SteerflowError(f"{path} has no [[job]]. An example: steerflow launch --example")
    for table in tables_of_jobs:
        stage = _stage(path, table, matrix, stages)
        stages[stage.name] = stage
    unused = set(matrix) - {axis for stage in stages.values() for axis in stage.axes}
    if unused:
        raise SteerflowError(f"No command in {path} uses {{{min(unused)}}} of [matrix]. Use it, or remove it.")
    slurm = tables.get("slurm", {})
    if not isinstance(slurm, dict):
        raise SteerflowError(f'slurm in {path} must be a table: [slurm], then lines such as partition = "gpu".')
    return JobFile(tuple(_jobs(path, matrix, stages)), slurm)


def named(jobs: Sequence[Job], patterns: Sequence[str]) -> tuple[Job, ...]:
    """The jobs whose names match one of the patterns (``*``, ``?``, ``[01]``), and all that they need.

    Raises UnknownNameError for a pattern that no job matches.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter((job.name for job in jobs), pattern)
        if not matching:
            raise unknown("job", pattern, [job.name for job in jobs], "Patterns such as 'train-*' match several.")
        wanted.update(matching)
    # A job stands after those that it needs.
    for job in reversed(jobs):
        if job.name in wanted:
            wanted.update(job.needs)
    return tuple(job for job in jobs if job.name in wanted)


def _matrix(path: Path, table: Any) -> dict[str, list[str]]:
    matrix = {}
    for axis, values in table.items() if isinstance(table, dict) else [("matrix", table)]:
        if not isinstance(values, list) or not values or not all(isinstance(value, _VALUES) for value in values):
            raise SteerflowError(f"{axis} in [matrix] of {path} must be a list of values, such as {axis} = [0, 1].")
        matrix[axis] = [str(value) for value in values]
    return matrix


def _stage(path: Path, table: Any, matrix: Mapping[str, Any], before: Mapping[str, _Stage]) -> _Stage:
    known = {"command": str, "name": str, "needs": (str, list), **{f.name: (int, float) for f in fields(Resources)}}
    known["cpus"] = known["gpus"] = int
    command = table.get("command") if isinstance(table, dict) else None
    if not isinstance(command, str) or not command.split():
        raise SteerflowError(f'A [[job]] in {path} has no command, such as command = "data make cube-single-play".')
    for key, value in table.items():
        if key not in known:
            raise unknown("key of a [[job]]", key, known, f"It is in {path}.")
        if not isinstance(value, known[key]) or isinstance(value, bool) or (not isinstance(value, str) and value == []):
            raise SteerflowError(f"{key} = {value!r} of the job {command!r} in {path} is not of the right kind.")
    command = command.strip().removeprefix("steerflow ")
    name = table.get("name", command.split()[0])
    if name in before:
        raise SteerflowError(f'Two jobs in {path} are named {name!r}. Give each a name = "...".')
    needs = [table["needs"]] if isinstance(table.get("needs"), str) else table.get("needs", [])
    for need in needs:
        if str(need) not in before:
            raise unknown("job", str(need), before, f"{name!r} in {path} needs it: it must stand before {name!r}.")
    axes = tuple(axis for axis in matrix if axis in _AXIS.findall(command))
    for axis in _AXIS.findall(command):
        if axis not in matrix:
            raise unknown("value", axis, matrix, f"{command!r} in {path} uses it; values are listed in [matrix].")
    resources = Resources(**{f.name: table[f.name] for f in fields(Resources) if f.name in table})
    if resources.cpus < 1 or resources.gpus < 0 or resources.hours <= 0 or (resources.memory_gb or 1) <= 0:
        raise SteerflowError(f"The job {name!r} in {path} asks for less than nothing: {resources}.")
    return _Stage(name, command, axes, tuple(needs), resources)


def _jobs(path: Path, matrix: Mapping[str, list[str]], stages: Mapping[str, _Stage]) -> Iterator[Job]:
    made: dict[str, list[tuple[dict[str, str], Job]]] = {}
    names: set[str] = set()
    for stage in stages.values():
        made[stage.name] = []
        for combination in itertools.product(*(matrix[axis] for axis in stage.axes)):
            values = dict(zip(stage.axes, combination, strict=True))
            name = re.sub(r"[^\w.+=-]", "_", "-".join([stage.name, *combination]))
            if name in names:
                raise SteerflowError(f"Two jobs in {path} would be called {name}. Give them other names or values.")
            names.add(name)
            needs = tuple(
                job.name
                for need in stage.needs
                for theirs, job in made[need]
                if all(values.get(axis, value) == value for axis, value in theirs.items())
            )
            text = _AXIS.sub(lambda match, values=values: values[match[1]], stage.command)
            try:
                arguments = shlex.split(text)
            except ValueError as error:
                raise SteerflowError(f"The command {text!r} in {path} cannot be split into words: {error}.") from error
            job = Job(name, stage.name, tuple(arguments), needs, stage.resources)
            made[stage.name].append((values, job))
            yield job
