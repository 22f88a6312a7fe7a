"""Worker processes that step seeded episodes; nothing waits for the slowest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import IO, Self

import numpy as np
from jaxtyping import Float

from steerflow.envs.tasks import TaskError, require_known_task
from steerflow.envs.worker import pack, unpack
from steerflow.machine import usable_cores

_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Reply:
    """What a lane answers to ``start`` (no steps) or ``execute``: the state after the chunk and what happened in it."""

    lane: int
    observation: Float[np.ndarray, " observation"]
    # Sum of the chunk's rewards.
    reward: float
    steps: int
    # The episode has ended; ``success`` is then the environment's verdict, or None if it gives none.
    done: bool
    success: bool | None
    # Seconds inside the environment, and those that building it took, which the lane's first episode does.
    seconds: float
    building: float = 0.0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]


class Pool:
    """``workers`` processes with ``lanes`` environments each, numbered from 0 over all workers.

    A lane runs one episode at a time. Its environment is built at its first episode and reused for all later ones; an
    episode depends on (task, seed, actions) only, not on the lane or on what ran there before.

    with Pool("cube-single-play", workers=2, lanes=4) as pool:
        pool.start(0, seed=17)
        (reply,) = pool.wait()
        pool.execute(0, actions)     # (chunk, action)
        (reply,) = pool.wait()

    Workers are fresh interpreters: they import neither the main script nor jax, so a pool may be made anywhere, before
    or after jax starts. Environments that a script registers need the form ``module:Name-v0``.
    """

    def __init__(self, task: str, workers: int | None = None, lanes: int = 4) -> None:
        self.task = require_known_task(task)
        self.workers = workers or usable_cores()
        self.lanes = self.workers * lanes
        self.builds = 0
        self._outbox: dict[int, list] = {}
        # How many commands each worker has not answered yet, and the number of each lane's episode.
        self._pending = [0] * self.workers
        self._episodes: dict[int, int] = {}
        self._workers: list[_Worker] = []
        self._close = weakref.finalize(self, _close, self._workers)
        for _ in range(self.workers):
            self._workers.append(_launch(self.task))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; environments that run are abandoned."""
        self._close()

    @property
    def processes(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self._workers]

    def left(self, lane: int) -> int:
        """How many commands the lane's worker has left to answer, of this lane and of others."""
        return self._pending[lane % self.workers]

    def start(self, lane: int, seed: int) -> None:
        """Begin an episode; whatever ran on this lane is abandoned. Sent with the next ``wait``."""
        self._episodes[lane] = self._episodes.get(lane, 0) + 1
        self._send(lane, {"seed": seed}, None)

    def execute(self, lane: int, actions: Float[np.ndarray, "chunk action"]) -> None:
        """Run a chunk of actions, open loop, until its end or the episode's. Sent with the next ``wait``."""
        self._send(lane, {}, np.asarray(actions, np.float32))

    def abandon(self) -> None:
        """Give up all episodes that run: their answers, which may still be under way, are thrown away."""
        for lane in self._episodes:
            self._episodes[lane] += 1

    def wait(self) -> list[Reply]:
        """All answers that are there; waits for a worker's if there are none. Empty if nothing is under way.

        Raises TaskError with the environment's own message if an environment fails or a worker dies.
        """
        self.flush()
        while busy := {self._workers[i].connection: i for i in range(self.workers) if self._pending[i]}:
            replies: list[Reply] = []
            for connection in wait(list(busy)):
                replies += self._receive(busy[connection])  # pyright: ignore[reportArgumentType]
            # Answers of abandoned episodes do not count.
            if replies:
                return replies
        return []

    def flush(self) -> None:
        """Send the commands now instead of with the next ``wait``."""
        for index, items in self._outbox.items():
            try:
                self._workers[index].connection.send_bytes(pack(items))
            except (BrokenPipeError, ConnectionResetError):
                raise self._death(index) from None
        self._outbox = {}

    def _send(self, lane: int, record: dict, actions: np.ndarray | None) -> None:
        if not 0 <= lane < self.lanes:
            raise IndexError(f"Lane {lane} of a pool with {self.lanes} lanes.")
        index = lane % self.workers
        command = {**record, "lane": lane, "episode": self._episodes[lane]}
        self._outbox.setdefault(index, []).append((command, actions))
        self._pending[index] += 1

    def _receive(self, index: int) -> list[Reply]:
        connection, replies = self._workers[index].connection, []
        try:
            while self._pending[index] and connection.poll(0):
                for record, observation in unpack(connection.recv_bytes()):
                    if "error" in record:
                        raise TaskError(f"The environment of {self.task!r} failed. {record['error']}")
                    assert observation is not None
                    self._pending[index] -= 1
                    self.builds += record["building"] > 0
                    if record.pop("episode") == self._episodes[record["lane"]]:
                        replies.append(Reply(observation=observation, **record))
        except (EOFError, ConnectionResetError):
            raise self._death(index) from None
        return replies

    def _death(self, index: int) -> TaskError:
        worker = self._workers[index]
        try:
            code = worker.process.wait(2.0)
        except subprocess.TimeoutExpired:
            code = None
        worker.log.seek(0)
        last = worker.log.read().decode(errors="replace").strip().splitlines()[-12:]
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        hint = " It may have run out of memory; try fewer workers or lanes." if code == -signal.SIGKILL else ""
        said = "\n" + "\n".join(last) if last else ""
        return TaskError(f"A worker process of {self.task!r} died ({how}).{hint}{said}")


def worker_environment() -> dict[str, str]:
    """Environment variables of a worker: this process's module path, one thread, and no OpenGL unless chosen."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment.update(dict.fromkeys(_SINGLE_THREADED, "1"))
    environment.setdefault("MUJOCO_GL", "disabled")
    return environment


def _launch(task: str) -> _Worker:
    # A plain interpreter instead of multiprocessing's spawn, which imports the main script again: that would load jax
    # where the script does, and fails in scripts without an ``if __name__`` guard.
    ours, theirs = Pipe()
    assert isinstance(ours, Connection)
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _close)
    command = [sys.executable, "-m", "steerflow.envs.worker", str(theirs.fileno()), str(os.getpid()), task]
    process = subprocess.Popen(
        command,
        env=worker_environment(),
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    theirs.close()
    return _Worker(process, ours, log)


def _close(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        try:
            worker.process.wait(0.5)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.log.close()
