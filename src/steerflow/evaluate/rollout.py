"""Run arms on the same seeded episodes: one process decides for all arms and environments that wait, workers step physics."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steerflow.envs.pool import Pool, Reply
from steerflow.errors import MismatchError, SteerflowError
from steerflow.evaluate.arms import Actors, Acts, Arm
from steerflow.evaluate.rows import EpisodeRow, RowFile, episode_seed, read_rows
from steerflow.evaluate.timing import Timing

# Diagnostics of the actor whose mean over an episode's decisions goes into its row.
_MEANS = ("q", "gradient_norm", "velocity_norm", "clipped_fraction")


@dataclass
class _Running:
    """An episode on a lane."""

    wanted: _Wanted
    decisions: int = 0
    total: float = 0.0
    length: int = 0
    info: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _MEANS})

    def row(self, task: str, success: bool | None) -> EpisodeRow:
        arm = self.wanted.arm
        recipe = arm.recipe.to_json()
        means = {name: _finite(float(np.mean(values))) if values else None for name, values in self.info.items()}
        return EpisodeRow(
            arm=arm.name,
            method=arm.method,
            weight=recipe["weight"],
            candidates=recipe["candidates"],
            recipe=recipe,
            task=task,
            split=self.wanted.split,
            episode=self.wanted.episode,
            seed=self.wanted.seed,
            success=success,
            return_=self.total,
            length=self.length,
            q_first=_finite(self.info["q"][0]) if self.info["q"] else None,
            policy=arm.policy.fingerprint,
            critic=arm.critic.fingerprint if arm.critic else "",
            parts=arm.part_names,
            **means,
        )


def evaluate(
    arms: Sequence[Arm],
    episodes: Sequence[int] | Mapping[str, Sequence[int]],
    split: str,
    pool: Pool,
    path: Path,
    *,
    seed: int = 0,
    actors: Actors | None = None,
    on_row: Callable[[EpisodeRow, bool], None] | None = None,
    timing: Timing | None = None,
) -> list[EpisodeRow]:
    """Run episodes of the pool's task, by number; returns their rows, arm by arm.

    ``episodes``: the same for every arm, or by the arm's name. Rows go to the file at ``path`` as they come; episodes whose rows
    are there are not run again, so that a killed evaluation continues. A row depends on (arm, task, seed of the episode) only:
    not on workers, lanes or other arms. ``on_row`` is called with each row and whether it was on file, those first. Chunks are
    executed open loop.
    Raises MismatchError for policies that do not fit the task, and what the environments and the actor raise.
    """
    wanted = [
        _Wanted(arm, episode, split, episode_seed(seed, split, episode))
        for arm in arms
        for episode in (episodes if isinstance(episodes, Sequence) else episodes[arm.name])
    ]
    keys = [one.key(pool.task) for one in wanted]
    if len(set(keys)) < len(keys):
        raise SteerflowError("Two arms are the same, or an episode is asked for twice; give each once.")
    with RowFile(path) as file:
        rows = {row.key: row for row in read_rows(path)}
        todo = [one for one, key in zip(wanted, keys, strict=True) if key not in rows]

        def told(row: EpisodeRow, known: bool) -> None:
            if on_row is not None:
                on_row(row, known)

        for key in keys:
            if key in rows:
                told(rows[key], True)
        if todo:

            def write(row: EpisodeRow) -> None:
                file.append(row)
                rows[row.key] = row
                told(row, False)

            _Rollout(todo, pool, actors or Actors(), timing if timing is not None else Timing()).run(write)
            file.sort()
    return [rows[key] for key in keys]


@dataclass(frozen=True)
class _Wanted:
    """An episode of an arm."""

    arm: Arm
    episode: int
    split: str
    seed: int

    def key(self, task: str) -> tuple[str, ...]:
        return (*self.arm.key(task, self.split), str(self.seed))


class _Rollout:
    """Runs episodes on all lanes of a pool; a lane that has finished one takes the next."""

    def __init__(self, todo: Sequence[_Wanted], pool: Pool, actors: Actors, timing: Timing) -> None:
        self._queue, self._pool, self._actors, self._timing = deque(todo), pool, actors, timing
        self._running: dict[int, _Running] = {}
        # Arms are few and episodes many: look an arm's actor up once.
        arms = {id(one.arm): one.arm for one in todo}
        actors.prepare(arms.values())
        self._compiled = {number: actors.of(arm) for number, arm in arms.items()}

    def run(self, finished: Callable[[EpisodeRow], None]) -> None:
        """Calls ``finished`` as episodes end, until none is left."""
        pool, timing, begin = self._pool, self._timing, time.perf_counter()
        built, compiled = pool.builds, self._actors.compile_seconds
        try:
            for lane in range(min(pool.lanes, len(self._queue))):
                self._start(lane)
            waiting: list[Reply] = []
            while self._running:
                mark = time.perf_counter()
                replies = pool.wait()
                timing.waiting += time.perf_counter() - mark
                for reply in replies:
                    row = self._take(reply)
                    if row is not None:
                        finished(row)
                    else:
                        waiting.append(reply)
                # Lanes that begin an episode need not wait for the decisions.
                pool.flush()
                # A call costs nearly the same for few rows as for many: gather until a worker has one command left,
                # which keeps it busy during the call.
                if any(pool.left(reply.lane) <= 1 for reply in waiting):
                    waiting = self._decide(waiting, wait=not replies)
        finally:
            pool.abandon()
            wall = time.perf_counter() - begin
            timing.add(
                Timing(
                    wall=wall,
                    capacity=wall * pool.workers,
                    compile=self._actors.compile_seconds - compiled,
                    environments_built=pool.builds - built,
                )
            )

    def _start(self, lane: int) -> None:
        self._running[lane] = _Running(self._queue.popleft())
        self._pool.start(lane, self._running[lane].wanted.seed)

    def _take(self, reply: Reply) -> EpisodeRow | None:
        """Book what a lane answered; the row if its episode has ended, and the lane then begins the next one."""
        running = self._running[reply.lane]
        _require_fitting(running.wanted.arm, reply, self._pool.task)
        running.total += reply.reward
        running.length += reply.steps
        self._timing.physics += reply.seconds
        self._timing.building += reply.building
        if not reply.done:
            return None
        self._timing.add(Timing(episodes=1, steps=running.length))
        del self._running[reply.lane]
        if self._queue:
            self._start(reply.lane)
        return running.row(self._pool.task, reply.success)

    def _decide(self, waiting: Sequence[Reply], wait: bool) -> list[Reply]:
        """Decide for all lanes whose actor is compiled, with one call for each actor; the replies that have to wait on.

        ``wait``: nothing else is under way, so wait for the first of the actors.
        """
        groups: dict[Future[Acts], list[Reply]] = {}
        for reply in waiting:
            groups.setdefault(self._compiled[id(self._running[reply.lane].wanted.arm)], []).append(reply)
        if wait:
            futures.wait(groups, return_when=futures.FIRST_COMPLETED)
        begin, later = time.perf_counter(), []
        for actor, group in groups.items():
            if actor.done():
                self._call(actor.result(), group)
            else:
                later += group
        self._timing.policy += time.perf_counter() - begin
        return later

    def _call(self, actor: Acts, waiting: Sequence[Reply]) -> None:
        """One call for all lanes that wait for this actor."""
        rows = [self._running[reply.lane] for reply in waiting]
        actions, info = actor.rows(
            np.array([row.wanted.seed for row in rows], np.int64),
            np.array([row.decisions for row in rows], np.int64),
            np.stack([reply.observation for reply in waiting]),
            np.array([row.wanted.arm.recipe.weight for row in rows], np.float32),
        )
        self._timing.add(Timing(calls=1, decisions=len(rows)))
        means = {name: info[name].tolist() for name in _MEANS if name in info}
        for i, (reply, row) in enumerate(zip(waiting, rows, strict=True)):
            row.decisions += 1
            for name, values in means.items():
                row.info[name].append(values[i])
            self._pool.execute(reply.lane, actions[i])


def _require_fitting(arm: Arm, reply: Reply, task: str) -> None:
    needed, found = arm.policy.spec.observation_dim, len(reply.observation)
    if needed != found:
        raise MismatchError(
            f"The policy of arm {arm.name!r} needs observations of {needed} dimensions, {task!r} gives {found}. "
            "Evaluate on a task of the data it was trained on."
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
