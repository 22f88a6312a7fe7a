"""Run arms on the same seeded episodes: one process decides for all arms and environments that wait, workers step physics."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from steerflow.envs.pool import Pool, Reply
from steerflow.errors import MismatchError, SteerflowError
from steerflow.evaluate.rows import EpisodeRow, RowFile, arm_key, episode_seed, read_rows
from steerflow.evaluate.timing import Timing

if TYPE_CHECKING:
    from steerflow.amortised import AmortisedGuidance
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
    amortised: AmortisedGuidance | None = None

    @staticmethod
    def of(
        method: str,
        policy: Policy,
        critic: Critic | None,
        recipe: Recipe,
        amortised: AmortisedGuidance | None = None,
    ) -> Arm:
        """An arm whose name tells its strength: ``qgf w=0.1``, ``best_of_n n=16``, ``qgf steps=20 w=0.1``.

        ``amortised`` belongs to it only where the recipe asks it.
        """
        used = amortised if "amortised" in recipe.asks else None
        name = method + _changes(method, recipe)
        weight = f" w={recipe.to_json()['weight']:g}" if recipe.guided else ""
        candidates = f" n={recipe.candidates}" if recipe.candidates > 1 else ""
        return Arm(name + weight + candidates, method_name(method, recipe), policy, critic, recipe, used)

    def key(self, task: str, split: str) -> tuple[str, ...]:
        """Identifies the arm in a file of rows."""
        return arm_key(self.name, self.recipe.to_json(), *self.fingerprints, task, split)

    @property
    def fingerprints(self) -> tuple[str, str, str]:
        """Of the policy, the critic and the amortised guidance; empty for what it has not."""
        policy, critic, amortised = (p.fingerprint if p else "" for p in (self.policy, self.critic, self.amortised))
        return policy, critic, amortised


class Acts(Protocol):
    """What the rollout needs of ``steerflow.steer.actor.Actor``."""

    def rows(
        self, seeds: np.ndarray, decisions: np.ndarray, observations: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]: ...


def method_name(method: str, recipe: Recipe) -> str:
    """The method, and what its recipe changes in the preset besides its strength: arms of one name form one curve.

    Behaviour cloning stays ``bc``: it is what all others are compared with.
    """
    return method if method == "bc" else method + _changes(method, recipe)


def _changes(method: str, recipe: Recipe) -> str:
    from steerflow.steer.presets import PRESETS

    if method not in PRESETS:
        return ""
    usual, strength = PRESETS[method].to_json(), ("weight", "candidates")
    return "".join(f" {k}={v}" for k, v in recipe.to_json().items() if k not in strength and v != usual[k])


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
        policy, critic, amortised = arm.fingerprints
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
            policy=policy,
            critic=critic,
            amortised=amortised,
            **means,
        )


class Actors:
    """One actor for all arms of equal structure; it decides once for everything that waits for it.

    Keep one over several evaluations: an actor compiles when it is first needed.
    """

    def __init__(self, make_actor: Callable[[Arm], Acts] | None = None) -> None:
        self._make = make_actor or _actor
        # By structure; the arm is kept because its key holds the identities of its networks.
        self._actors: dict[tuple, tuple[Acts, Arm]] = {}

    def prepare(self, arms: Iterable[Arm]) -> None:
        """Make and compile what these arms need, before environments wait for it."""
        for arm in arms:
            if self._key(arm) not in self._actors:
                actor = self._make(arm)
                zero, observation = np.zeros(1, np.int64), np.zeros((1, arm.policy.spec.observation_dim), np.float32)
                actor.rows(zero, zero, observation, np.zeros(1, np.float32))
                self._actors[self._key(arm)] = actor, arm

    def of(self, arm: Arm) -> Acts:
        return self._actors[self._key(arm)][0]

    @staticmethod
    def _key(arm: Arm) -> tuple:
        parts = (id(arm.policy), id(arm.critic), id(arm.amortised))
        return (*parts, json.dumps(arm.recipe.structure().to_json(), sort_keys=True))


def evaluate(
    arms: Sequence[Arm],
    episodes: Iterable[int],
    split: str,
    pool: Pool,
    path: Path,
    *,
    seed: int = 0,
    actors: Actors | None = None,
    on_row: Callable[[EpisodeRow], None] | None = None,
    timing: Timing | None = None,
) -> list[EpisodeRow]:
    """Run every arm on the same episodes of the pool's task; returns their rows, arm by arm.

    Rows go to the file at ``path`` as they come; episodes whose rows are there are not run again, so that a killed
    evaluation continues. A row depends on (arm, task, seed of the episode) only: not on workers, lanes or other arms.
    ``on_row`` is called for each row, those on file first. Chunks are executed open loop.
    Raises MismatchError for policies that do not fit the task, and what the environments and the actor raise.
    """
    wanted = [
        _Wanted(arm, episode, split, episode_seed(seed, split, episode)) for arm, episode in product(arms, episodes)
    ]
    keys = [one.key(pool.task) for one in wanted]
    if len(set(keys)) < len(keys):
        raise SteerflowError("Two arms are the same, or an episode is asked for twice; give each once.")
    with RowFile(path) as file:
        rows = {row.key: row for row in read_rows(path)}
        todo = [one for one, key in zip(wanted, keys, strict=True) if key not in rows]

        def finished(row: EpisodeRow) -> None:
            rows[row.key] = row
            if on_row is not None:
                on_row(row)

        for key in keys:
            if key in rows:
                finished(rows[key])
        if todo:

            def write(row: EpisodeRow) -> None:
                file.append(row)
                finished(row)

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
        # Arms are few and episodes many: look an arm's actor up once.
        self._arms = {id(one.arm): one.arm for one in todo}
        self._running: dict[int, _Running] = {}

    def run(self, finished: Callable[[EpisodeRow], None]) -> None:
        """Calls ``finished`` as episodes end, until none is left."""
        pool, timing, begin, built = self._pool, self._timing, time.perf_counter(), self._pool.builds
        try:
            for lane in range(min(pool.lanes, len(self._queue))):
                self._start(lane)
            # Environments are built while policies compile.
            pool.flush()
            self._actors.prepare(self._arms.values())
            actors = {number: self._actors.of(arm) for number, arm in self._arms.items()}
            timing.compile += time.perf_counter() - begin
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
                # A call costs nearly the same for few rows as for many: gather until a worker has nothing left to do.
                if all(pool.busy(reply.lane) for reply in waiting):
                    continue
                mark = time.perf_counter()
                groups: dict[int, list[Reply]] = {}
                for reply in waiting:
                    groups.setdefault(id(actors[id(self._running[reply.lane].wanted.arm)]), []).append(reply)
                for group in groups.values():
                    self._decide(actors[id(self._running[group[0].lane].wanted.arm)], group)
                waiting = []
                timing.policy += time.perf_counter() - mark
        finally:
            pool.abandon()
            wall = time.perf_counter() - begin
            timing.add(Timing(wall=wall, capacity=wall * pool.workers, environments_built=pool.builds - built))

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
        if not reply.done:
            return None
        self._timing.add(Timing(episodes=1, steps=running.length))
        del self._running[reply.lane]
        if self._queue:
            self._start(reply.lane)
        return running.row(self._pool.task, reply.success)

    def _decide(self, actor: Acts, waiting: Sequence[Reply]) -> None:
        """One call for all lanes that wait for this actor."""
        rows = [self._running[reply.lane] for reply in waiting]
        actions, info = actor.rows(
            np.array([row.wanted.seed for row in rows], np.int64),
            np.array([row.decisions for row in rows], np.int64),
            np.stack([reply.observation for reply in waiting]),
            np.array([row.wanted.arm.recipe.weight for row in rows], np.float32),
        )
        self._timing.add(Timing(calls=1, decisions=len(rows)))
        for i, (reply, row) in enumerate(zip(waiting, rows, strict=True)):
            row.decisions += 1
            for name in _MEANS:
                if name in info:
                    row.info[name].append(float(info[name][i]))
            self._pool.execute(reply.lane, actions[i])


def _actor(arm: Arm) -> Acts:
    from steerflow.steer.actor import Actor

    return Actor(arm.policy, arm.critic, arm.recipe.structure(), arm.amortised)


def _require_fitting(arm: Arm, reply: Reply, task: str) -> None:
    needed, found = arm.policy.spec.observation_dim, len(reply.observation)
    if needed != found:
        raise MismatchError(
            f"The policy of arm {arm.name!r} needs observations of {needed} dimensions, {task!r} gives {found}. "
            "Evaluate on a task of the data it was trained on."
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
