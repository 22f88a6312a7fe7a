"""``steerflow launch FILE``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from steerflow.cli.shell import dispatch, keeping, parse, read, refuse
from steerflow.errors import BusyError, SteerflowError

if TYPE_CHECKING:
    from steerflow.launch.jobs import Job, JobFile
    from steerflow.launch.work import Place, Record

_PACKAGES = {"ray": "ray", "slurm": "submitit"}


@dataclass(frozen=True)
class Launch:
    """Run the jobs of a file, such as all tasks and seeds of a study; see `steerflow launch --example`.

    A job is a command of steerflow. Jobs whose worker is killed are started again and continue; jobs that are done are not run
    again. Logs: launches/FILE. Exits with 1 if a job failed.
    """

    # The job file: commands, the values that vary, and which job needs which.
    file: Annotated[Positional[Path | None], arg(metavar="FILE")] = None
    # Where jobs run: one after another here; by Ray here, as many as there is room for, or on its cluster at --address; or
    # by SLURM. Ray's and SLURM's nodes must see the same files.
    on: Literal["local", "ray", "slurm"] = "local"
    # A running Ray cluster: auto (found on this machine), HOST:PORT or ray://HOST:PORT.
    address: str | None = None
    # Only the jobs of these names and what they need; patterns such as 'train-*' or '*cube*' stand for several.
    only: tuple[str, ...] = ()
    # How often a job that was killed is started again.
    retries: int = 3
    # Run jobs that are done as well; most commands then find their results and end at once.
    again: bool = False
    # Only print the commands.
    dry_run: bool = False
    # Print an example of a job file.
    example: bool = False


def launch(arguments: list[str]) -> None:
    config = parse(Launch, arguments, prog="steerflow launch")
    from steerflow.launch.jobs import EXAMPLE, named, read_jobs
    from steerflow.launch.work import Place

    if config.example:
        print(EXAMPLE, end="")
        return
    if config.file is None:
        raise SteerflowError("Which jobs? Give a file: steerflow launch FILE. An example: steerflow launch --example")
    if config.address is not None and config.on != "ray":
        raise SteerflowError("--address is of a Ray cluster: give --on ray as well.")
    file = read_jobs(config.file)
    for job in file.jobs:
        _require_understood(job)
    place = Place(
        directory=Path.cwd(),
        folder=Path.cwd() / "launches" / config.file.stem,
        launch=datetime.now().isoformat(),
        shared=config.on != "local",
        environment={name: value for name, value in os.environ.items() if name.startswith("STEERFLOW_")},
    )
    jobs = named(file.jobs, config.only) if config.only else file.jobs
    todo = list(jobs) if config.again else _not_done(jobs, place)
    if config.dry_run:
        _print_commands(jobs, todo)
        return
    package = _PACKAGES.get(config.on)
    if package is not None and find_spec(package) is None:
        raise SteerflowError(
            f"--on {config.on} needs {package}, which is not installed. Type: pip install 'steerflow[{config.on}]'"
        )
    from steerflow.run import locked

    keeping(f"Jobs that are done are not run again; logs are in {_short(place.folder)}.")
    try:
        with locked(place.folder):
            ended = _run(config, file, todo, place)
    except BusyError as error:
        raise BusyError(f"Another steerflow launch of {config.file} is running. Wait for it, or stop it.") from error
    _show(jobs, ended, place)
    print(_short(place.folder))
    if any(record.state != "done" for record in ended.values()):
        raise SystemExit(1)


def _require_understood(job: Job) -> None:
    """Refuse a job whose command the command line does not understand; nothing of it is run."""
    from steerflow.cli.main import COMMANDS

    if job.arguments[0] == "launch":
        raise SteerflowError(f"The job {job.name} is a launch itself; list its jobs instead.")
    try:
        read(lambda words: dispatch("steerflow", COMMANDS, words, ""), list(job.arguments))
    except SystemExit:
        refuse(f"Nothing was started: the command of the job {job.name} is not understood: {job.command}")


def _not_done(jobs: Sequence[Job], place: Place) -> list[Job]:
    """The jobs that are not done with this command, and those that need one of them."""
    from steerflow.launch.work import is_done

    names: set[str] = set()
    for job in jobs:
        if not is_done(job, place) or names.intersection(job.needs):
            names.add(job.name)
    return [job for job in jobs if job.name in names]


def _print_commands(jobs: Sequence[Job], todo: Sequence[Job]) -> None:
    """The commands as lines of a shell script."""
    for job in jobs:
        notes = [
            job.name,
            *([f"after {', '.join(job.needs)}"] if job.needs else []),
            *([] if job in todo else ["done"]),
        ]
        print(f"{job.command}  # {'; '.join(notes)}")


def _run(config: Launch, file: JobFile, todo: Sequence[Job], place: Place) -> dict[str, Record]:
    from steerflow.progress import bar

    ended: dict[str, Record] = {}
    if not todo:
        return ended
    with closing(_ends(config, file, todo, place)) as ends, bar("Jobs", len(todo)) as progress:
        for job, record in ends:
            ended[job.name] = record
            failed = sum(record.state == "failed" for record in ended.values())
            progress.update(len(ended), f"{failed} failed" if failed else "")
    return ended


def _ends(config: Launch, file: JobFile, todo: Sequence[Job], place: Place) -> Generator[tuple[Job, Record]]:
    """The engine's iterator over the jobs' ends."""
    if config.on == "ray":
        from steerflow.launch import ray

        return ray.run(todo, place, config.retries, config.address)
    if config.on == "slurm":
        # Before submitit is imported, which puts its own logging in place of the process's.
        if shutil.which("sbatch") is None:
            raise SteerflowError(
                "There is no sbatch here. Call steerflow launch --on slurm on a login node of the cluster."
            )
        from steerflow.launch import slurm

        return slurm.run(todo, place, config.retries, file.slurm)
    from steerflow.launch import local

    return local.run(todo, place, config.retries)


def _show(jobs: Sequence[Job], ended: Mapping[str, Record], place: Place) -> None:
    """A line for each stage; for each failure what happened, where its log is and what continues it."""
    from rich.table import Table

    from steerflow.progress import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("jobs")
    for name in ("done", "of them before", "of them retried", "failed", "skipped", "seconds each"):
        table.add_column(name, justify="right")
    for stage in dict.fromkeys(job.stage for job in jobs):
        names = [job.name for job in jobs if job.stage == stage]
        records = [ended[name] for name in names if name in ended]
        done = [record for record in records if record.state == "done"]
        before = len(names) - len(records)
        table.add_row(
            stage,
            str(len(done) + before),
            str(before or ""),
            str(sum(record.attempts > 1 for record in done) or ""),
            str(sum(record.state == "failed" for record in records) or ""),
            str(sum(record.state == "skipped" for record in records) or ""),
            f"{sum(record.seconds for record in done) / len(done):.0f}" if done else "",
        )
    console().print(table)
    for job in jobs:
        if job.name in ended and (record := ended[job.name]).state == "failed":
            tries = f" after {record.attempts} attempts" if record.attempts > 1 else ""
            lines = [f"\n✗ {job.name}{tries}: {record.problem}"]
            lines += [f"  log       {_short(place.log(job))}", f"  continue  {job.command}"]
            print("\n".join(lines), file=sys.stderr)


def _short(path: Path) -> str:
    return os.path.relpath(path)
