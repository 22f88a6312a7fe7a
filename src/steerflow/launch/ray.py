"""Jobs as Ray tasks, on this machine or on a cluster: Ray places them, waits for those they need, and retries them.

A task's resources are the job's; its arguments are the records of the jobs that it needs. Ray starts a task again, on
another node if need be, when its worker or node is gone or when its command was ended by a signal.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from steerflow.errors import SteerflowError
from steerflow.launch.jobs import Job, Resources
from steerflow.launch.work import STOP_SECONDS, Killed, Place, Record, blocked, run_job
from steerflow.progress import console

# The least that Ray takes: what passes between tasks are records.
_OBJECT_STORE_BYTES = 80 * 2**20


def run(jobs: Sequence[Job], place: Place, retries: int, address: str | None) -> Generator[tuple[Job, Record]]:
    """Run the jobs and tell each one's end as it comes; when the iterator is closed, what still runs is cancelled."""
    address = address or os.environ.get("RAY_ADDRESS")
    _start(address)
    try:
        _require_room(jobs, [node["Resources"] for node in ray.nodes() if node["Alive"]], address)
        tasks: dict[str, Any] = {}
        remote = ray.remote(_task)
        for job in jobs:
            # The others were done before.
            names = [name for name in job.needs if name in tasks]
            task = remote.options(**_options(job.resources, retries), name=job.name)
            tasks[job.name] = task.remote(job, place, retries, names, *(tasks[name] for name in names))
        yield from _ends(jobs, place, tasks)
    finally:
        ray.shutdown()


def _start(address: str | None) -> None:
    # Ray sends statistics of its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ImportError, RayError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        raise SteerflowError(f"Ray could not be reached {where}: {error}") from error


def _options(resources: Resources, retries: int) -> dict[str, Any]:
    memory = {} if resources.memory_gb is None else {"memory": int(resources.memory_gb * 1e9)}
    return {
        "num_cpus": resources.cpus, "num_gpus": resources.gpus, **memory,
        "max_retries": retries, "retry_exceptions": [Killed],
    }  # fmt: skip


def _require_room(jobs: Sequence[Job], nodes: Sequence[Mapping[str, float]], address: str | None) -> None:
    """Refuse jobs that would wait for ever; a cluster may still grow, so there it is only said."""
    for job in jobs:
        want = {"CPU": job.resources.cpus, "GPU": job.resources.gpus, "memory": (job.resources.memory_gb or 0) * 1e9}
        if any(all(node.get(name, 0) >= amount for name, amount in want.items()) for node in nodes):
            continue
        has = "; ".join(
            f"{n.get('CPU', 0):.0f} cpus, {n.get('GPU', 0):.0f} gpus, {n.get('memory', 0) / 1e9:.0f} GB" for n in nodes
        )
        message = f"No node has what {job.name} asks for ({job.resources}). Nodes: {has}."
        if address is None:
            raise SteerflowError(f"{message} Ask for less, or give the --address of a larger cluster.")
        console().print(f"[yellow]{message} It waits until there is one.[/]")


def _task(job: Job, place: Place, retries: int, names: Sequence[str], *needed: Record) -> Record:
    """What runs on a node, with the records of the needed jobs of these names."""
    if skipped := blocked(job, place, dict(zip(names, needed, strict=True))):
        return skipped
    before = Record.read(place.record(job))
    tried = before.attempts if before is not None and before.launch == place.launch else 0
    return run_job(job, place, last=tried >= retries)


def _ends(jobs: Sequence[Job], place: Place, tasks: Mapping[str, Any]) -> Generator[tuple[Job, Record]]:
    ended: dict[str, Record] = {}
    waiting = dict(tasks)
    try:
        while waiting:
            ray.wait(list(waiting.values()), num_returns=1)
            ready = set(ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=0)[0])
            # In their order, so that a failure is told before what it keeps from running.
            for job in [job for job in jobs if waiting.get(job.name) in ready]:
                ended[job.name] = _end(job, place, waiting.pop(job.name), ended)
                yield job, ended[job.name]
    finally:
        # Kindly, so that commands save their work.
        for task in waiting.values():
            ray.cancel(task)
        if waiting:
            ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=STOP_SECONDS)


def _end(job: Job, place: Place, task: Any, ended: Mapping[str, Record]) -> Record:
    try:
        return ray.get(task)
    except RayError as error:
        # Of this job, or passed on from one that it needs.
        if skipped := blocked(job, place, ended):
            return skipped
        record = Record.read(place.record(job)) or Record(job.command, place.launch, "failed")
        reason = str(error).strip().splitlines()[0]
        return replace(record, state="failed", problem=f"lost by Ray, {type(error).__name__}: {reason}")
