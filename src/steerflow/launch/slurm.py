"""Jobs on SLURM by submitit: arrays of jobs that wait for the same ones, queued again when a node or the time is out.

SLURM keeps what was submitted when this process ends. ``slurm.json`` in the launch's folder holds the ids, so that a second
call watches what the first submitted.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from submitit import SlurmExecutor, SlurmJob
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError

from steerflow.artefact import read_json, write_json
from steerflow.cli.shell import keeping
from steerflow.errors import SteerflowError
from steerflow.launch.jobs import Job
from steerflow.launch.work import Place, Record, blocked, run_to_the_end, stop_running
from steerflow.progress import console

_POLL_SECONDS = 2.0
# A record may show up on this machine some time after its job ended on another.
_RECORD_SECONDS = 60.0
# What submitit writes when it does not queue a job once more.
_OUT_OF_TIME = "timed-out too many times"


class JobFailed(Exception):
    """Tells SLURM of a failure, so that the jobs that need this one do not start."""


@dataclass(frozen=True)
class Attempts:
    """What SLURM runs. submitit calls ``checkpoint`` when the time is out or the node is wanted, and queues it again."""

    job: Job
    place: Place
    retries: int

    def __call__(self) -> None:
        record = run_to_the_end(self.job, self.place, self.retries)
        if record.state != "done":
            raise JobFailed(record.problem)

    def checkpoint(self) -> DelayedSubmission:
        stop_running()
        return DelayedSubmission(self)


@dataclass(frozen=True)
class _Submitted:
    """A job in SLURM's queue, or through it."""

    job: Job
    place: Place
    handle: Any

    def end(self, since: float) -> Record | None:
        """The job's record, or None while it may still come; ``since`` is when SLURM said that the job ended."""
        record = Record.read(self.place.record(self.job))
        if record is not None and record.launch == self.place.launch and record.state != "running":
            return record
        lost = record or Record(self.job.command, self.place.launch, "failed")
        errors = self.handle.paths.stderr
        if errors.exists() and _OUT_OF_TIME in errors.read_text(errors="replace"):
            hours = f"{self.job.resources.hours:g} hours"
            problem = f"not through within its {hours}, again and again; what it saved is kept. Give it more `hours`."
        elif time.monotonic() - since < _RECORD_SECONDS:
            return None
        else:
            problem = f"SLURM says {self.handle.state} of job {self.handle.job_id}; see also {errors}"
        return replace(lost, state="failed", problem=problem)


def run(
    jobs: Sequence[Job], place: Place, retries: int, parameters: Mapping[str, Any]
) -> Generator[tuple[Job, Record]]:
    """Submit the jobs that are not queued already, and tell each one's end as it comes."""
    queue = _Queue(place, retries, parameters)
    waiting = {submitted.job.name: submitted for submitted in queue.submit(jobs)}
    ended: dict[str, Record] = {}
    over: dict[str, float] = {}
    while waiting:
        for name, submitted in list(waiting.items()):
            record = blocked(submitted.job, place, ended)
            if record is None and (name in over or submitted.handle.done()):
                record = submitted.end(over.setdefault(name, time.monotonic()))
            if record is not None:
                ended[name] = record
                del waiting[name]
                yield submitted.job, record
        if waiting:
            time.sleep(_POLL_SECONDS)


class _Queue:
    """Submits jobs and remembers their ids."""

    def __init__(self, place: Place, retries: int, parameters: Mapping[str, Any]) -> None:
        self.place, self.retries, self.parameters = place, retries, dict(parameters)
        self.folder, self.path = place.folder / "slurm", place.folder / "slurm.json"
        self.ids: dict[str, Any] = read_json(self.path) if self.path.exists() else {}

    def submit(self, jobs: Sequence[Job]) -> list[_Submitted]:
        """All jobs, in their order: as an array those of a stage that wait for the same jobs."""
        found = {job.name: there for job in jobs if (there := self._queued(job)) is not None}
        for job in jobs:
            # Before anything is submitted: whether SLURM's parameters are understood.
            self._executor(job, ())
        for _, stage in itertools.groupby(jobs, key=lambda job: job.stage):
            new = [job for job in stage if job.name not in found]
            for needs, array in itertools.groupby(sorted(new, key=lambda job: job.needs), key=lambda job: job.needs):
                after = [found[name].handle.job_id for name in needs if name in found]
                for submitted in self._submit_array(list(array), after):
                    found[submitted.job.name] = submitted
        ids = list(dict.fromkeys(submitted.handle.job_id.split("_")[0] for submitted in found.values()))
        keeping(f"Jobs stay in SLURM's queue; to cancel them: scancel {' '.join(ids)}.")
        console().print(f"In SLURM's queue: {' '.join(ids)}. This may be stopped; the same command watches them again.")
        return [found[job.name] for job in jobs]

    def _queued(self, job: Job) -> _Submitted | None:
        """The job as an earlier call of the launch submitted it, if it waits or runs."""
        known = self.ids.get(job.name)
        if known is None or known["command"] != job.command:
            return None
        handle = SlurmJob(self.folder, known["id"])
        if handle.done(force_check=True) or handle.state == "UNKNOWN":
            return None
        return _Submitted(job, replace(self.place, launch=known["launch"]), handle)

    def _submit_array(self, jobs: Sequence[Job], after: Sequence[str]) -> list[_Submitted]:
        attempts = [Attempts(job, self.place, self.retries) for job in jobs]
        try:
            handles = self._executor(jobs[0], after).submit_array(attempts)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SteerflowError(f"SLURM did not take {jobs[0].name}: {str(error).strip().splitlines()[-1]}") from error
        for job, handle in zip(jobs, handles, strict=True):
            self.ids[job.name] = {"id": handle.job_id, "command": job.command, "launch": self.place.launch}
        write_json(self.path, self.ids)
        return [_Submitted(job, self.place, handle) for job, handle in zip(jobs, handles, strict=True)]

    def _executor(self, job: Job, after: Sequence[str]) -> SlurmExecutor:
        asked = job.resources
        parameters: dict[str, Any] = {
            "job_name": job.stage,
            "cpus_per_task": asked.cpus,
            # SLURM's steps do not inherit it.
            "srun_args": [f"--cpus-per-task={asked.cpus}"],
            "time": math.ceil(asked.hours * 60),
        }
        if asked.gpus:
            parameters["gpus_per_node"] = asked.gpus
        if asked.memory_gb is not None:
            parameters["mem"] = f"{math.ceil(asked.memory_gb * 1024)}M"
        if after:
            parameters["dependency"] = ":".join(["afterok", *after])
        parameters |= self.parameters
        # Queued again where the node fails; gone from the queue where a job that it needs failed.
        more = {"requeue": True, "kill-on-invalid-dep": "yes"}
        parameters["additional_parameters"] = more | self.parameters.get("additional_parameters", {})
        executor = SlurmExecutor(self.folder, max_num_timeout=self.retries)
        try:
            executor.update_parameters(**parameters)
        except ValueError as error:
            raise SteerflowError(f"[slurm] of the job file: {error}") from error
        return executor
