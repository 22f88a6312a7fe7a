"""What a training run learns, as one pytree: the policy and the critics of all tasks, and one update of both.

Seeds are a leading axis: ``Learner.init`` makes the states of all, the other functions see one of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp

from steerflow.data.index import Chunks
from steerflow.learn import flow_matching, iql
from steerflow.learn.config import TrainConfig
from steerflow.spec import Spec

# Streams of randomness derived from the seed; batches have stream 0 (data/feed.py).
INIT, NOISE, VALIDATION = 1, 2, 3


@runtime_checkable
class Trainable(Protocol):
    """What the training loop (train.py) asks of what it trains; ``Learner`` below, ``Distiller`` in distil.py."""

    @property
    def config(self) -> TrainConfig: ...
    @property
    def spec(self) -> Spec: ...
    @property
    def tasks(self) -> tuple[str, ...]:
        """Whose rewards are in a batch."""
        ...

    @property
    def names(self) -> dict[str, list[str]]:
        """Of what is learnt, as in metrics.jsonl, by their place in ``info``; several are its last axis."""
        ...

    def init(self) -> Any: ...
    def update(self, state: Any, chunks: Chunks, step: Any) -> tuple[Any, dict[str, Any]]: ...
    def validate(self, state: Any, chunks: Chunks, step: Any) -> dict[str, Any]: ...


class TrainState(eqx.Module):
    """Of one seed; a run's has a leading axis over its seeds on every leaf."""

    seed: Any  # () int32
    policy: flow_matching.FlowMatchingState | None
    critics: iql.IQLState | None  # a leading axis over tasks


def stream(seed, number: int):
    """The key of one of the streams above."""
    return jax.random.fold_in(jax.random.key(seed), number)


def over_axis(function: Callable[..., Any], in_axes: Any, size: int) -> Callable[..., Any]:
    """``jax.vmap(function, in_axes)`` over an axis of ``size``; over one, that axis is taken away and put back, as kernels with
    an axis of one more are slower."""
    if size > 1:
        return jax.vmap(function, in_axes)

    def alone(*arguments):
        without = lambda axis, x: x if axis is None else jax.tree.map(lambda leaf: leaf[0], x)  # noqa: E731
        taken = jax.tree.map(without, in_axes, arguments, is_leaf=lambda axis: axis is None)
        return jax.tree.map(lambda leaf: leaf[None], function(*taken))

    return alone


@dataclass(frozen=True)
class Learner:
    """``init`` and ``update`` of everything that one run trains; pure functions over TrainState."""

    config: TrainConfig
    spec: Spec

    @property
    def names(self) -> dict[str, list[str]]:
        policy = {"policy": ["policy"]} if self.config.learn != "critic" else {}
        return policy | ({"critic": [f"critic/{task}" for task in self.tasks]} if self.tasks else {})

    @property
    def tasks(self) -> tuple[str, ...]:
        return () if self.config.learn == "policy" else self.config.tasks

    def init(self) -> TrainState:
        """The states of all seeds before the first update."""
        return jax.vmap(self._init)(jnp.array(self.config.seeds, jnp.int32))

    def _init(self, seed) -> TrainState:
        """Initial parameters: a function of the seed and, for a critic, of its task's name, not of what else is trained."""
        base = stream(seed, INIT)
        policy = critics = None
        if self.config.learn != "critic":
            policy = flow_matching.init(jax.random.fold_in(base, 0), self.spec, self.config.policy)
        if self.tasks:
            keys = jnp.stack([jax.random.fold_in(base, zlib.crc32(task.encode())) for task in self.tasks])
            critics = jax.vmap(lambda key: iql.init(key, self.spec, self.config.critic))(keys)
        return TrainState(seed, policy, critics)

    def update(self, state: TrainState, chunks: Chunks, step) -> tuple[TrainState, dict[str, Any]]:
        """One update of each on the same batch; the critics of all tasks are one vectorised update."""
        policy, critics, info = state.policy, state.critics, {}
        if policy is not None:
            key = jax.random.fold_in(stream(state.seed, NOISE), step)
            policy, info["policy"] = flow_matching.update(policy, chunks, key, self.config.policy)
        if critics is not None:
            critics, info["critic"] = self._over_tasks(iql.update)(critics, chunks)
        return TrainState(state.seed, policy, critics), info

    def validate(self, state: TrainState, chunks: Chunks, step) -> dict[str, Any]:
        """The losses without an update."""
        info = {}
        if state.policy is not None:
            key = jax.random.fold_in(stream(state.seed, VALIDATION), step)
            info["policy"] = flow_matching.evaluate(state.policy, chunks, key, self.config.policy)
        if state.critics is not None:
            info["critic"] = self._over_tasks(iql.evaluate)(state.critics, chunks)
        return info

    def _over_tasks(self, function):
        axes = Chunks(None, None, None, None, None, 0, 0)  # type: ignore[arg-type]
        config = self.config.critic
        return over_axis(lambda state, chunks: function(state, chunks, config), (0, axes), len(self.tasks))
