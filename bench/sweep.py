"""Sweeps: nine guidance weights on thirty episodes each, beside physics alone and the usual way.

Physics alone replays the actions of the sweep's own episodes, open loop, in the same number of worker processes: no policy,
one environment for each worker, and the next episode as soon as one ends. All times begin before environments are built and
workers start. Compiled programs are kept on disk, here in a folder that is empty at first: the first sweep has a line of its own.
The usual way is a jitted call for each decision, one environment in a process, weights one after another;
it runs a part of the episodes, and its time is scaled by the number of environment steps.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from bench import usual
from bench.measure import Options, Table
from steerflow.compiled import keep_in
from steerflow.critic import Critic
from steerflow.envs.pool import Pool
from steerflow.evaluate.arms import Actors, Arm
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.timing import Timing
from steerflow.machine import usable_cores
from steerflow.policy import Policy
from steerflow.steer.presets import recipe

# From a tenth of a good weight to ten times it, as a first sweep of an unknown critic would have.
_WEIGHTS = tuple(float(f"{w:.3g}") for w in np.geomspace(0.008, 0.8, 9))
# A sweep takes long, so it is repeated less often than other timings.
_MOST_REPEATS = 3


class Recorder(Pool):
    """A pool that keeps the seed and the actions of every episode."""

    def __init__(self, task: str) -> None:
        self.episodes: list[tuple[int, list[np.ndarray]]] = []
        self._latest: dict[int, list[np.ndarray]] = {}
        super().__init__(task)

    def start(self, lane: int, seed: int) -> None:
        self._latest[lane] = []
        self.episodes.append((seed, self._latest[lane]))
        super().start(lane, seed)

    def execute(self, lane: int, actions: np.ndarray) -> None:
        self._latest[lane].append(actions)
        super().execute(lane, actions)


@dataclass
class Swept:
    """A sweep: its time, what it took and what it ran."""

    seconds: float
    timing: Timing
    compilations: int
    lanes: int
    episodes: list[tuple[int, list[np.ndarray]]]
    returns: float


def measure(options: Options) -> Table:
    weights, episodes = (_WEIGHTS[2:4], 4) if options.quick else (_WEIGHTS, 30)
    repeats = 1 if options.quick else min(options.repeats, _MOST_REPEATS)
    title = f"{len(weights)} weights on {episodes} episodes each, {usable_cores()} cores"
    table = Table("sweep", title, {"run": str(options.run), "task": options.task, "weights": weights})
    swept, alone, single, several = [], [], [], []
    with _kept_programs():
        first = sweep(options, weights, episodes)
        for _ in range(repeats):
            swept.append(sweep(options, weights, episodes))
            alone.append(replay(options.task, swept[-1]))
            some = weights[2:8:3] or weights
            single.append(usual_one(options, some, max(2, episodes // 5)))
            several.append(usual_many(options, some, max(2, episodes // 5)))
    one = swept[0]
    steps = one.timing.steps
    table.settings |= {
        "lanes": one.lanes,
        "compilations": first.compilations,
        "timing": one.timing.to_json(),
    }
    group = "time of the whole sweep"
    limit = table.add(group, "physics alone", "limit", "s", alone, "one environment for each worker, and building it")
    table.add(group, "steerflow, the first", "steerflow", "s", [first.seconds], "with building and compilation")
    ours = table.add(group, "steerflow", "steerflow", "s", [s.seconds for s in swept], "with building")
    for name, found in (
        ("the usual way, one process", single),
        ("the usual way, a process for each core", several),
    ):
        value = table.add(group, name, "usual", "s", [start + steps * each for start, each in found], "scaled by steps")
        table.ratio(f"times faster than {name}", value / ours, ">= 3")
        table.ratio(f"times faster than {name}, if there were only physics", value / limit)
    table.ratio("time over physics alone", ours / limit, "<= 1.3")
    table.ratio(
        "share of the workers' time in environments",
        statistics.median(s.timing.to_json()["physics_share"] for s in swept),
    )
    return table


@contextmanager
def _kept_programs() -> Iterator[None]:
    """A folder of compiled programs, empty at first, for all that is compiled within; what an actor keeps is kept there."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    with tempfile.TemporaryDirectory() as folder:
        try:
            keep_in(folder)
            yield
        finally:
            keep_in(*before)


def sweep(options: Options, weights: tuple[float, ...], episodes: int) -> Swept:
    """Nothing is kept from earlier sweeps but what is on disk: neither environments nor compiled policies."""
    compilations = 0

    def count(event: str, *_: object, **__: object) -> None:
        nonlocal compilations
        compilations += event == "/jax/core/compile/backend_compile_duration"

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    timing, begin = Timing(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Recorder(options.task) as pool:
        policy, critic = Policy.load(options.run / "policy"), Critic.load(options.run / "critic" / options.task)
        arms = [Arm.of("qgf", policy, critic, recipe("qgf", weight=weight)) for weight in weights]
        rows = evaluate(
            arms, range(episodes), "tune", pool, Path(folder) / "rows.jsonl", actors=Actors(), timing=timing
        )
        seconds = time.perf_counter() - begin
    jax.monitoring.unregister_event_duration_listener(count)
    return Swept(seconds, timing, compilations, pool.lanes, pool.episodes, sum(row.return_ for row in rows))


def replay(task: str, swept: Swept) -> float:
    """Seconds of the same episodes without a policy; they must end as they did with it."""
    begin, steps, returns = time.perf_counter(), 0, 0.0
    with Pool(task, lanes=1) as pool:
        todo, running = list(reversed(swept.episodes)), 0

        def start(lane: int) -> int:
            if not todo:
                return 0
            seed, chunks = todo.pop()
            pool.start(lane, seed)
            for chunk in chunks:
                pool.execute(lane, chunk)
            return 1

        running = sum(start(lane) for lane in range(pool.lanes))
        while running:
            for reply in pool.wait():
                steps, returns = steps + reply.steps, returns + reply.reward
                if reply.done:
                    running += start(reply.lane) - 1
        seconds = time.perf_counter() - begin
    if (steps, returns) != (swept.timing.steps, swept.returns):
        raise RuntimeError(f"The replay took {steps} steps, the sweep {swept.timing.steps}: it is not the same work.")
    return seconds


def usual_one(options: Options, weights: tuple[float, ...], episodes: int) -> tuple[float, float]:
    """(seconds to start, seconds for each environment step) in this process."""
    begin = time.perf_counter()
    usual.Evaluation.start(options.run, options.task)
    started = time.perf_counter()
    steps = sum(usual.Evaluation.episode(weight, seed) for weight in weights for seed in range(episodes))
    return started - begin, (time.perf_counter() - started) / steps


def usual_many(options: Options, weights: tuple[float, ...], episodes: int) -> tuple[float, float]:
    """The same with a process for each core, which share the episodes of a weight and wait for the slowest."""
    cores, context = usable_cores(), multiprocessing.get_context("spawn")
    begin, barrier = time.perf_counter(), context.Barrier(cores + 1)
    with context.Pool(cores, usual.Evaluation.start, (options.run, options.task, barrier)) as pool:
        barrier.wait()
        started, steps = time.perf_counter(), 0
        for weight in weights:
            steps += sum(pool.starmap(usual.Evaluation.episode, [(weight, seed) for seed in range(episodes)], 1))
        return started - begin, (time.perf_counter() - started) / steps
