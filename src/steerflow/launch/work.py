"""One job, wherever it runs: the command in a process of its own, its log, its record, and its end.

The process is ``python -m steerflow.launch.work PARENT ARGUMENTS``, which is ``steerflow ARGUMENTS`` that ends when its
parent is gone. No jax here, and nothing that only one engine knows.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

from steerflow.artefact import read_json, write_json
from steerflow.cli.shell import BUSY, INTERRUPTED, TERMINATED
from steerflow.errors import ArtefactError
from steerflow.launch.jobs import Job

# A command that is asked to end saves a checkpoint first; one that does not get it done in this time is killed.
STOP_SECONDS = 30.0
# How long a job waits for another process to let go of its run folder, such as a first attempt that is about to end.
BUSY_SECONDS = 600.0


# Commands of this process that are running.
_running: list[subprocess.Popen[bytes]] = []


class Killed(Exception):
    """The command was ended by a signal, not by an error of its own: started again, it continues."""


@dataclass(frozen=True)
class Place:
    """Where jobs run and leave their traces, the same for all nodes; ``launch`` tells one call of the launch from another."""

    directory: Path
    folder: Path
    launch: str
    # Whether jobs share their node, so that each keeps to the cores that it asked for.
    shared: bool = False
    # Variables of the launch's own environment that every job gets.
    environment: Mapping[str, str] = field(default_factory=dict)

    def log(self, job: Job) -> Path:
        return self.folder / f"{job.name}.log"

    def record(self, job: Job) -> Path:
        return self.folder / f"{job.name}.json"


@dataclass(frozen=True)
class Record:
    """What is known of a job: JOB.json beside its log, written at the start and at the end of every attempt."""

    command: str
    launch: str
    # "running", "done", "failed", or "skipped" where a job that it needs failed.
    state: str
    attempts: int = 0
    # Of the last attempt; negative for a signal.
    exit: int | None = None
    seconds: float = 0.0
    host: str = ""
    # Where something is wrong: what.
    problem: str = ""
    # What the command printed last, if that is a path: its result.
    result: str = ""

    @staticmethod
    def read(path: Path) -> Record | None:
        """The record, or None if there is none that can be read."""
        try:
            return Record(**read_json(path))
        except (ArtefactError, TypeError):
            return None


def is_done(job: Job, place: Place) -> bool:
    """Whether an earlier call of the launch did the job with the same command, and its result is still there."""
    record = Record.read(place.record(job))
    if record is None or record.state != "done" or record.command != job.command:
        return False
    return os.path.exists(place.directory / record.result)


def blocked(job: Job, place: Place, ended: Mapping[str, Record]) -> Record | None:
    """The record of a job that cannot run, because one that it needs ended without being done."""
    for need in job.needs:
        if need in ended and ended[need].state != "done":
            return Record(job.command, place.launch, "skipped", problem=f"it needs {need}")
    return None


def run_job(job: Job, place: Place, last: bool) -> Record:
    """Run the command once and write its record.

    Raises Killed if a signal ended it, unless this is the ``last`` attempt, which fails.
    """
    begin, before = time.monotonic(), Record.read(place.record(job))
    attempts = before.attempts + 1 if before is not None and before.launch == place.launch else 1
    record = Record(job.command, place.launch, "running", attempts, host=socket.gethostname())
    if not place.folder.is_dir():
        problem = f"{place.folder} is not there on {record.host}: all nodes must see the same files"
        return replace(record, state="failed", problem=problem)
    write_json(place.record(job), asdict(record))
    code = _attempt(job, place, attempts)
    end = replace(record, exit=code, seconds=time.monotonic() - begin, state="done" if code == 0 else "failed")
    by_signal = code < 0 or code in (INTERRUPTED, TERMINATED)
    if by_signal:
        end = replace(end, problem=f"ended by {_name_of_signal(code)}")
    elif code != 0:
        end = replace(end, problem=_last_line(place.log(job)) or f"exit code {code}")
    elif os.path.exists(place.directory / (printed := _last_line(place.log(job)))):
        end = replace(end, result=printed)
    write_json(place.record(job), asdict(end))
    if by_signal and not last:
        raise Killed(f"{job.name} was {end.problem}")
    return end


def run_to_the_end(job: Job, place: Place, retries: int) -> Record:
    """Run the command, again if a signal ended it: for engines that do not start a job again by themselves."""
    for attempt in range(retries + 1):
        try:
            return run_job(job, place, last=attempt == retries)
        except Killed:
            continue
    raise AssertionError("the last attempt raises nothing")


def _attempt(job: Job, place: Place, number: int) -> int:
    """The exit code of the command, which is tried again while another process holds its run folder."""
    environment = {**os.environ, **place.environment}
    if place.shared:
        environment["NPROC"] = str(job.resources.cpus)
    words = [sys.executable, "-m", "steerflow.launch.work", str(os.getpid()), *job.arguments]
    waited, pause = 0.0, 1.0
    with open(place.log(job), "ab", buffering=0) as log:
        while True:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            log.write(f"$ {job.command}  # attempt {number}, {socket.gethostname()}, {now}\n".encode())
            # A session of its own: it gets the signals that are meant for it, and no other.
            process = subprocess.Popen(
                words, cwd=place.directory, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            _running.append(process)
            try:
                code = _wait(process)
            finally:
                stop_running()
            if code != BUSY or waited >= BUSY_SECONDS:
                return code
            time.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 30.0)


def _wait(process: subprocess.Popen[bytes]) -> int:
    # Not one long wait: engines interrupt a job by an exception between two bytecodes, not by a signal.
    while True:
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue


def stop_running() -> None:
    """Let the commands that this process runs save their work and end; kill those that do not."""
    while _running:
        process = _running.pop()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _name_of_signal(code: int) -> str:
    try:
        return signal.Signals(-code if code < 0 else code - 128).name
    except ValueError:
        return f"signal {-code}"


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines and not lines[-1].startswith("$ ") else ""


def _end_with(parent: int) -> None:
    """End this process, first kindly, when its parent is gone: the job is then started elsewhere."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(TERMINATED)


def main(arguments: list[str]) -> None:
    parent, *words = arguments
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    sys.argv = ["steerflow", *words]
    runpy.run_module("steerflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
