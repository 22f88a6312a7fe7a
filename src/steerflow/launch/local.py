"""Jobs one after another on this machine, each with all of it. Needs no extra."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from steerflow.launch.jobs import Job
from steerflow.launch.work import Place, Record, blocked, run_to_the_end


def run(jobs: Sequence[Job], place: Place, retries: int) -> Generator[tuple[Job, Record]]:
    """Run the jobs in their order and tell each one's end."""
    ended: dict[str, Record] = {}
    for job in jobs:
        ended[job.name] = blocked(job, place, ended) or run_to_the_end(job, place, retries)
        yield job, ended[job.name]
