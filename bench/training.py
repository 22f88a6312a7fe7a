"""Training: updates per second of a policy and its critics, beside the usual way and what matrix products alone allow.

The limit counts the floating-point operations of all products of one update (forward, and two products backward for each
layer that is trained) over the rate of products of the same shape and precision, measured between the other timings. A second
limit adds what Adam and the target networks take alone, which read and write each weight and its moments once an update.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench import usual
from bench.measure import Options, Table, product_rate, seconds
from steerflow.data.feed import make_feed
from steerflow.data.label import label
from steerflow.data.store import DataSet, Store
from steerflow.learn.config import FlowMatchingConfig, IQLConfig, Precision, TrainConfig
from steerflow.learn.networks import MLP
from steerflow.learn.state import Learner
from steerflow.learn.train import compiled_updates, spec_of
from steerflow.spec import Normaliser

BATCH = 256


def product_flops(tree, batch: int, forward: int, trained: bool) -> float:
    """FLOPs of the products of every MLP in ``tree``: ``forward`` passes, and a backward pass if it is trained."""
    total = 0.0
    for mlp in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, MLP)):
        for n, layer in enumerate((*mlp.layers, mlp.output)):
            one = 2 * batch * layer.weight.size  # leading ensemble and task axes count in size
            total += forward * one + trained * (one + (one if n else 0))
    return total


def update_flops(state, batch: int) -> float:
    policy, critics = state.policy, state.critics
    return (
        product_flops(policy.velocity, batch, 1, True)
        + product_flops(critics.critics, batch, 1, True)
        + product_flops(critics.target, batch, 1, False)
        + product_flops(critics.value, batch, 2, True)
    )


def optimiser_alone(state, updates: int) -> Callable[[], None]:
    """A call of so many updates' Adam and average of the target networks alone, with gradients that are there."""
    adam, critics = optax.adam(3e-4), state.critics
    arrays = lambda tree: jax.tree.map(jnp.copy, eqx.filter(tree, eqx.is_inexact_array))  # noqa: E731
    trained, target = arrays((critics.critics, critics.value, state.policy.velocity)), arrays(critics.target)

    def one(_, carry, gradient):
        trained, moments, target = carry
        step, moments = adam.update(gradient, moments)
        trained = optax.apply_updates(trained, step)
        return trained, moments, jax.tree.map(lambda old, new: old + 0.005 * (new - old), target, trained[0])

    run = jax.jit(
        lambda carry, gradient: jax.lax.fori_loop(0, updates, lambda i, c: one(i, c, gradient), carry), donate_argnums=0
    )
    carry, gradient = (trained, adam.init(trained), target), jax.tree.map(jnp.ones_like, trained)

    def again() -> None:
        nonlocal carry
        carry = jax.block_until_ready(run(carry, gradient))

    return again


def measure(options: Options) -> Table:
    table = Table("training", f"Training a policy and its critics, batch {BATCH}, chunk 5", {"data": options.data})
    store = DataSet.open(options.data).train
    label(store, options.task)
    for width in options.hidden:
        _width(table, store, width, options)
    return table


def _width(table: Table, store: Store, width: int, options: Options) -> None:
    group, updates = f"4x{width}", 50 if options.quick else 250
    learners = [learner_of(options, store, width, [options.task], precision=p) for p in get_args(Precision)]
    programs = [Program(learner, store, updates) for learner in learners]
    spec, config = learners[0].spec, learners[0].config
    agent = usual.agent(0, spec.observation_dim, spec.flat_dim, config.policy.hidden)
    sampler = usual.Sampler(store, options.task, BATCH, config.chunk)
    flops = update_flops(programs[0].state, BATCH)
    alone = optimiser_alone(programs[0].state, updates)
    limits, ours, theirs, optimiser = [], [], [], []
    # In turn, so that a change of the machine's speed meets all alike; the first round warms up.
    for _ in range(options.repeats + 1):
        limits.append([product_rate(BATCH, width, learner.config.precision) / flops for learner in learners])
        optimiser.append(min(seconds(alone, 3)) / updates)
        ours.append([updates / seconds(program, 1, warm_up=0)[0] for program in programs])
        begin = time.perf_counter()
        agent = usual.train(agent, sampler, updates)
        theirs.append(updates / (time.perf_counter() - begin))
    note = f"{flops / 1e9:.3f} GFLOP of products in an update"
    limit, rounded_limit = zip(*limits[1:], strict=True)
    exact, rounded = zip(*ours[1:], strict=True)
    table.add(group, "matrix products alone", "limit", "updates/s", limit, note)
    both = [1 / (1 / products + adam) for products, adam in zip(limit, optimiser[1:], strict=True)]
    table.add(group, "products, and Adam alone", "limit", "updates/s", both)
    rate = table.add(group, "steerflow", "steerflow", "updates/s", exact)
    table.add(group, "the usual way", "usual", "updates/s", theirs[1:])
    table.add(group, "matrix products alone, bfloat16", "limit", "updates/s", rounded_limit)
    rounded_rate = table.add(group, "steerflow, bfloat16", "steerflow", "updates/s", rounded)
    table.ratio(f"{group}: share of the limit", rate / statistics.median(limit), ">= 0.9 at 4x512")
    table.ratio(f"{group}: share of the limit with Adam", rate / statistics.median(both))
    table.ratio(f"{group}: times the usual way", rate / statistics.median(theirs[1:]), ">= 1.3 at 4x256")
    table.ratio(f"{group}: times the usual way, bfloat16", rounded_rate / statistics.median(theirs[1:]))


def learner_of(
    options: Options,
    store: Store,
    width: int,
    tasks: Sequence[str],
    seeds: tuple[int, ...] = (0,),
    precision: Precision = "float32",
) -> Learner:
    """What learns a policy and critics with four hidden layers of ``width``."""
    hidden = (width,) * 4
    config = TrainConfig(
        data=options.data, run=Path(), tasks=tuple(tasks), seeds=seeds, batch=BATCH, precision=precision,
        policy=FlowMatchingConfig(hidden=hidden), critic=IQLConfig(hidden=hidden),
    )  # fmt: skip
    return Learner(config, spec_of(store, config.chunk))


class Program:
    """One compiled call of ``count`` updates; called again, it goes on from there."""

    def __init__(self, learner: Learner, store: Store, count: int) -> None:
        self.count, self._done = count, 0
        self._feed = make_feed(
            "memory", store, spec=learner.spec, normaliser=Normaliser.identity(learner.spec.observation_dim),
            tasks=learner.tasks, seeds=learner.config.seeds, batch=BATCH, horizon=learner.config.chunk,
        )  # fmt: skip
        self._call, self.state = compiled_updates(learner, self._feed), jax.jit(learner.init)()

    def __call__(self) -> None:
        steps = np.arange(self._done, self._done + self.count, dtype=np.int32)
        payload = self._feed.payload(self._done, self.count)
        self.state = jax.block_until_ready(self._call(self.state, self._feed.data, steps, payload)[0])
        self._done += self.count
