"""Run arms on the same seeded episodes: one process decides for all arms and environments that wait, workers step physics."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from steerflow.envs.pool import Pool, Reply
from steerflow.errors import MismatchError, SteerflowError
from steerflow.evaluate.rows import EpisodeRow, RowFile, arm_key, episode_seed, read_rows

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.policy import Policy
    from steerflow.steer.recipe import Recipe

# Diagnostics of the actor whose mean over an episode's decisions goes into its row.
_MEANS = ("q", "gradient_norm", "velocity_norm", "clipped_fraction")


@dataclass(frozen=True)
class Arm:
    """What is compared: a policy, a critic and a recipe. ``name`` is shown, ``method`` groups arms that differ in strength."""

    name: str
    method: str
    policy: Policy
    critic: Critic | None
    recipe: Recipe

    def key(self, task: str, split: str) -> tuple[str, ...]:
        """Identifies the arm in a file of rows."""
        return arm_key(self.name, self.recipe.to_json(), *self.fingerprints, task, split)

    @property
    def fingerprints(self) -> tuple[str, str]:
        return self.policy.fingerprint, self.critic.fingerprint if self.critic is not None else ""


class Acts(Protocol):
    """What the rollout needs of ``steerflow.steer.actor.Actor``."""

    def rows(
        self, seeds: np.ndarray, decisions: np.ndarray, observations: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]: ...


@dataclass
class Timing:
    """Where the time of evaluations goes, in seconds; adds up over calls."""

    wall: float = 0.0
    # Inside environments, summed over workers.
    physics: float = 0.0
    # In policy calls, and compiling them.
    policy: float = 0.0
    compile: float = 0.0
    # The deciding process waits for environments.
    waiting: float = 0.0
    # Wall time times workers: what ``physics`` could be at most.
    capacity: float = 0.0
    episodes: int = 0
    decisions: int = 0
    steps: int = 0
    calls: int = 0
    environments_built: int = 0

    def add(self, other: Timing) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def to_json(self) -> dict[str, Any]:
        """The fields and ``physics_share``: the part of the workers' time that was spent inside environments."""
        share = {"physics_share": self.physics / self.capacity if self.capacity else 0.0}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in {**asdict(self), **share}.items()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Timing:
        return Timing(**{f.name: data[f.name] for f in fields(Timing) if f.name in data})


@dataclass
class _Running:
    """An episode on a lane."""

    arm: Arm
    episode: int
    seed: int
    decisions: int = 0
    total: float = 0.0
    length: int = 0
    info: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _MEANS})

    def row(self, task: str, split: str, success: bool | None) -> EpisodeRow:
        policy, critic = self.arm.fingerprints
        recipe = self.arm.recipe.to_json()
        means = {name: _finite(float(np.mean(values))) if values else None for name, values in self.info.items()}
        return EpisodeRow(
            arm=self.arm.name,
            method=self.arm.method,
            weight=recipe["weight"],
            candidates=recipe["candidates"],
            recipe=recipe,
            task=task,
            split=split,
            episode=self.episode,
            seed=self.seed,
            success=success,
            return_=self.total,
            length=self.length,
            q_first=_finite(self.info["q"][0]) if self.info["q"] else None,
            policy=policy,
            critic=critic,
            **means,
        )


def evaluate(
    arms: Sequence[Arm],
    episodes: Iterable[int],
    split: str,
    pool: Pool,
    path: Path,
    *,
    seed: int = 0,
    on_row: Callable[[EpisodeRow], None] | None = None,
    timing: Timing | None = None,
    make_actor: Callable[[Arm], Acts] | None = None,
) -> list[EpisodeRow]:
    """Run every arm on the same episodes of the pool's task; returns their rows, arm by arm.

    Rows go to the file at ``path`` as they come; episodes whose rows are there are not run again, so that a killed
    evaluation continues. A row depends on (arm, task, seed of the episode) only: not on workers, lanes or other arms.
    ``on_row`` is called for each row, those on file first. Chunks are executed open loop.
    Raises MismatchError for policies that do not fit the task, and what the environments and the actor raise.
    """
    episodes = list(episodes)
    wanted = [(arm, episode) for arm in arms for episode in episodes]
    if len({arm.key(pool.task, split) for arm in arms}) < len(arms):
        raise SteerflowError("Two arms are the same; give each arm once.")
    with RowFile(path) as file:
        rows = {row.key: row for row in read_rows(path)}
        key = {(arm.name, episode): (*arm.key(pool.task, split), str(episode_seed(seed, split, episode)))
               for arm, episode in wanted}  # fmt: skip
        todo = [(arm, episode) for arm, episode in wanted if key[arm.name, episode] not in rows]
        for arm, episode in wanted:
            if on_row is not None and key[arm.name, episode] in rows:
                on_row(rows[key[arm.name, episode]])

        def finished(row: EpisodeRow) -> None:
            file.append(row)
            rows[row.key] = row
            if on_row is not None:
                on_row(row)

        if todo:
            spent = _run(todo, split, pool, seed, finished, make_actor or _actor)
            if timing is not None:
                timing.add(spent)
            file.sort()
    return [rows[key[arm.name, episode]] for arm, episode in wanted]


def _run(
    todo: list[tuple[Arm, int]],
    split: str,
    pool: Pool,
    seed: int,
    finished: Callable[[EpisodeRow], None],
    make_actor: Callable[[Arm], Acts],
) -> Timing:
    timing, begin, built_before = Timing(), time.perf_counter(), pool.builds
    queue, running = deque(todo), {}

    def start(lane: int) -> None:
        arm, episode = queue.popleft()
        running[lane] = _Running(arm, episode, episode_seed(seed, split, episode))
        pool.start(lane, running[lane].seed)

    for lane in range(min(pool.lanes, len(queue))):
        start(lane)
    # Environments are built while policies compile.
    pool.flush()
    actors = _Actors(make_actor, [arm for arm, _ in todo])
    timing.compile = time.perf_counter() - begin

    while running:
        mark = time.perf_counter()
        replies = pool.wait()
        timing.waiting += time.perf_counter() - mark
        waiting = []
        for reply in replies:
            episode = running[reply.lane]
            _require_fitting(episode.arm, reply, pool.task)
            episode.total += reply.reward
            episode.length += reply.steps
            timing.physics += reply.seconds
            if not reply.done:
                waiting.append((reply, episode))
                continue
            timing.episodes += 1
            timing.steps += episode.length
            finished(episode.row(pool.task, split, reply.success))
            del running[reply.lane]
            if queue:
                start(reply.lane)
        pool.flush()
        mark = time.perf_counter()
        for (reply, episode), actions, info in actors.decide(waiting):
            for name in _MEANS:
                if name in info:
                    episode.info[name].append(info[name])
            episode.decisions += 1
            pool.execute(reply.lane, actions)
        timing.policy += time.perf_counter() - mark
        timing.decisions += len(waiting)
    timing.calls = actors.calls
    timing.wall = time.perf_counter() - begin
    timing.capacity = timing.wall * pool.workers
    timing.environments_built = pool.builds - built_before
    return timing


class _Actors:
    """One actor for all arms of equal structure; each decides once for everything that waits for it."""

    def __init__(self, make_actor: Callable[[Arm], Acts], arms: list[Arm]) -> None:
        self._actors: dict[tuple, Acts] = {}
        self.calls = 0
        for arm in arms:
            if self._key(arm) in self._actors:
                continue
            actor = self._actors[self._key(arm)] = make_actor(arm)
            # Compile now, not when environments wait.
            zero = np.zeros(1, np.int64)
            actor.rows(zero, zero, np.zeros((1, arm.policy.spec.observation_dim), np.float32), np.zeros(1, np.float32))

    @staticmethod
    def _key(arm: Arm) -> tuple:
        return (id(arm.policy), id(arm.critic), json.dumps(arm.recipe.structure().to_json(), sort_keys=True))

    def decide(self, waiting: list[tuple[Reply, _Running]]):
        """Yields (what waited, actions (chunk, action), info of floats)."""
        groups: dict[tuple, list[tuple[Reply, _Running]]] = {}
        for item in waiting:
            groups.setdefault(self._key(item[1].arm), []).append(item)
        for key, group in groups.items():
            actions, info = self._actors[key].rows(
                np.array([episode.seed for _, episode in group], np.int64),
                np.array([episode.decisions for _, episode in group], np.int64),
                np.stack([reply.observation for reply, _ in group]),
                np.array([episode.arm.recipe.weight for _, episode in group], np.float32),
            )
            self.calls += 1
            for i, item in enumerate(group):
                yield item, actions[i], {name: float(info[name][i]) for name in _MEANS if name in info}


def _actor(arm: Arm) -> Acts:
    from steerflow.steer.actor import Actor

    return Actor(arm.policy, arm.critic, arm.recipe.structure())


def _require_fitting(arm: Arm, reply: Reply, task: str) -> None:
    needed, found = arm.policy.spec.observation_dim, len(reply.observation)
    if needed != found:
        raise MismatchError(
            f"The policy of arm {arm.name!r} needs observations of {needed} dimensions, {task!r} gives {found}. "
            "Evaluate on a task of the data it was trained on."
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
