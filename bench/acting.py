"""Acting: milliseconds of one decision, beside the usual way and the time that reading the weights alone takes.

The limit counts the bytes of weights that one guided action must read (each network as often as it is asked, a gradient
twice) over the rate at which this machine reads that many bytes again and again, all cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np

from bench import usual
from bench.measure import Options, Table
from steerflow.critic import Critic, CriticNetworks
from steerflow.learn.networks import Critics, Value, Velocity
from steerflow.policy import Policy
from steerflow.spec import Normaliser, Spec
from steerflow.steer.actor import Actor, steer
from steerflow.steer.presets import recipe
from steerflow.steer.recipe import Recipe

# The spaces of cube-single, with chunks of 5.
SPEC = Spec(28, 5, 5, (-1.0,) * 5, (1.0,) * 5)

# Ways to spend less than QGF does; each is an option that says so.
CHEAPER: dict[str, Recipe] = {
    "qgf": recipe("qgf"),
    "qgf, mean of critics": recipe("qgf", aggregate="mean"),
    "qgf, one critic": recipe("qgf", aggregate="first"),
    "qgf, t >= 0.5": recipe("qgf", schedule="window(start=0.5)"),
    "qgf, every 2nd step": recipe("qgf", guide_every=2),
    "qgf, 5 steps": recipe("qgf", steps=5),
    "qgf, 3 midpoint steps": recipe("qgf", steps=3, solver="midpoint"),
    "fast": recipe("fast"),
}


def untrained(width: int) -> tuple[Policy, Critic]:
    """Networks of the method's shape; time does not depend on what they learnt."""
    hidden, normaliser = (width,) * 4, Normaliser.identity(SPEC.observation_dim)
    velocity = Velocity(jax.random.key(0), SPEC.observation_dim, SPEC.flat_dim, hidden, 100.0)
    networks = CriticNetworks(
        Critics(jax.random.key(1), SPEC.observation_dim, SPEC.flat_dim, hidden, 2),
        Value(jax.random.key(2), SPEC.observation_dim, hidden),
    )
    settings = {"hidden": list(hidden), "time_frequency": 100.0, "ensemble": 2}
    meta = {"network": settings, "task": "none"}
    return Policy(SPEC, normaliser, velocity, meta), Critic(SPEC, normaliser, networks, meta)


def latencies(calls: Mapping[str, Callable[[], object]], count: int, warm_up: int = 50) -> dict[str, list[float]]:
    """Milliseconds of each call, in turn in pieces, so that a change of the machine's speed meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(10):
        for name, call in calls.items():
            for n in range(warm_up // 10 + count // 10):
                begin = time.perf_counter()
                call()
                if n >= warm_up // 10:
                    found[name].append((time.perf_counter() - begin) * 1e3)
    return found


def measure(options: Options) -> Table:
    table = Table("acting", "One decision, 10 steps, two critics, chunk 5", {"hidden": list(options.hidden)})
    count = 100 if options.quick else 2000
    for width in options.hidden:
        policy, critic = untrained(width)
        for batch in (1, 8):
            _latency(table, f"4x{width}, batch {batch}", policy, critic, batch, count if batch == 1 else count // 4)
    return table


def _latency(table: Table, group: str, policy: Policy, critic: Critic, batch: int, count: int) -> None:
    observations = np.random.default_rng(0).normal(size=(batch, SPEC.observation_dim)).astype(np.float32)
    key = jax.random.key(0)
    actors = {"bc": steer(policy, critic, "bc"), "best of 16": steer(policy, critic, "best_of_n")}
    actors |= {name: Actor(policy, critic, chosen) for name, chosen in CHEAPER.items()}
    width = policy.network.body.output.weight.shape[0]
    agent = usual.agent(0, SPEC.observation_dim, SPEC.flat_dim, (width,) * 4)
    calls: dict[str, Callable[[], object]] = {
        "qgf, the usual way": partial(usual.act, agent, key, observations, 0.1, -1.0, 1.0)
    }
    calls |= {name: partial(actor, key, observations) for name, actor in actors.items()}
    times = latencies(calls, count)
    medians = {}
    for name, ms in times.items():
        p5, p50, p95, p99 = np.percentile(ms, [5, 50, 95, 99])
        role = "usual" if "usual" in name else "steerflow"
        medians[name] = table.add(
            group, name, role, "ms", [p5, p50, p95], f"low p5, high p95; p99 {p99:.3g}; {count} calls"
        )
    ratio = medians["qgf, the usual way"] / medians["qgf"]
    table.ratio(f"{group}: qgf against the usual way", ratio, ">= 2 at 4x512" if batch == 1 else "")
    if batch == 1:
        weights = weight_bytes(policy, critic)
        for cores, read in {"all cores": np.ndarray.__matmul__, "one core": lambda matrix, _: matrix.max()}.items():
            rate = read_rate(sum(weights.values()), read)
            limit = [1e3 * read_bytes(weights) / r for r in rate]
            note = f"{read_bytes(weights):.4g} bytes"
            median = table.add(group, f"reading the weights, {cores}", "limit", "ms", limit, note)
            table.ratio(f"{group}: qgf over reading the weights, {cores}", medians["qgf"] / median, "<= 1.5 at 4x512")


def weight_bytes(policy: Policy, critic: Critic) -> dict[str, int]:
    """Bytes of the velocity's weights and of both critics' weights."""
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    return {"velocity": size(policy.network), "critics": size(critic.network.critics)}


def read_bytes(weights: Mapping[str, int], steps: int = 10) -> float:
    """Bytes that one action must read: in each step the velocity once, both critics once and one of them again for its
    gradient; then both critics for the action's value."""
    return steps * (weights["velocity"] + 1.5 * weights["critics"]) + weights["critics"]


def read_rate(nbytes: int, read: Callable[[np.ndarray, np.ndarray], object]) -> list[float]:
    """Bytes per second of reading ``nbytes`` again and again, five times the best of twenty. ``read``: the product of a matrix
    and a vector, for which numpy's library uses all cores, or another function that reads the matrix."""
    matrix, vector = np.ones((nbytes // 4 // 512, 512), np.float32), np.ones(512, np.float32)
    best = []
    for _ in range(5):
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            read(matrix, vector)
            times.append(time.perf_counter() - begin)
        best.append(matrix.nbytes / min(times))
    return best
