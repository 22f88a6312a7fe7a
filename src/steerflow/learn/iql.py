"""Implicit Q-learning (Kostrikov et al. 2021) on chunks: critics by TD, a value by expectile regression, both in-sample."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from steerflow.data.index import Chunks
from steerflow.learn.config import IQLConfig
from steerflow.learn.networks import Critics, Value
from steerflow.spec import Spec


class IQLState(eqx.Module):
    critics: Critics
    target: Critics
    value: Value
    critics_optimiser: Any
    value_optimiser: Any


def init(key: Key[Array, ""], spec: Spec, config: IQLConfig) -> IQLState:
    critics_key, value_key = jax.random.split(key)
    critics = Critics(critics_key, spec.observation_dim, spec.flat_dim, config.hidden, config.ensemble)
    value = Value(value_key, spec.observation_dim, config.hidden)
    adam = optax.adam(config.learning_rate)
    # The target must be a copy: donated buffers may not be shared.
    target = jax.tree.map(jnp.copy, critics)
    return IQLState(critics, target, value, adam.init(critics), adam.init(value))  # pyright: ignore[reportArgumentType]


def critic_loss(
    critics: Critics, value: Value, observations, actions, next_observations, whole, returns, bootstrap
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over ensemble and batch of ``whole * (Q_e(s, a) - y)^2`` with ``y = R + B V(s')``, no gradient through V."""
    target = returns + bootstrap * jax.lax.stop_gradient(value(next_observations))
    q = critics(observations, actions)
    return jnp.mean(whole * (q - target) ** 2), {"q_mean": jnp.mean(q), "target_mean": jnp.mean(target)}


def value_loss(
    value: Value, target_critics: Critics, observations, actions, whole, config: IQLConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean of ``whole * |expectile - 1[d < 0]| d^2`` with ``d = aggregate_e Q_target,e(s, a) - V(s)``."""
    q = target_critics(observations, actions)
    q = jax.lax.stop_gradient(jnp.min(q, axis=0) if config.aggregate == "min" else jnp.mean(q, axis=0))
    v = value(observations)
    difference = q - v
    weight = jnp.where(difference >= 0, config.expectile, 1 - config.expectile)
    return jnp.mean(whole * weight * difference**2), {
        "value_mean": jnp.mean(v),
        "advantage_mean": jnp.mean(difference),
    }


def _parts(chunks: Chunks):
    return chunks.observations, chunks.actions.reshape(chunks.actions.shape[0], -1)


def update(state: IQLState, chunks: Chunks, config: IQLConfig) -> tuple[IQLState, dict[str, Float[Array, ""]]]:
    """One step of Adam each; every loss sees the parameters before the step, the target follows with ``target_rate``.

    Here ``chunks.returns`` and ``chunks.bootstrap`` are those of one task, shape (batch,).
    """
    adam = optax.adam(config.learning_rate)
    observations, actions = _parts(chunks)
    (q_loss, q_info), q_gradient = jax.value_and_grad(critic_loss, has_aux=True)(
        state.critics, state.value, observations, actions,
        chunks.next_observations, chunks.whole, chunks.returns, chunks.bootstrap,
    )  # fmt: skip
    (v_loss, v_info), v_gradient = jax.value_and_grad(value_loss, has_aux=True)(
        state.value, state.target, observations, actions, chunks.whole, config
    )
    q_step, critics_optimiser = adam.update(q_gradient, state.critics_optimiser)
    v_step, value_optimiser = adam.update(v_gradient, state.value_optimiser)
    rate = config.target_rate
    return IQLState(
        critics=optax.apply_updates(state.critics, q_step),  # pyright: ignore[reportArgumentType]
        target=jax.tree.map(lambda online, target: rate * online + (1 - rate) * target, state.critics, state.target),
        value=optax.apply_updates(state.value, v_step),  # pyright: ignore[reportArgumentType]
        critics_optimiser=critics_optimiser,
        value_optimiser=value_optimiser,
    ), {"critic_loss": q_loss, "value_loss": v_loss, **q_info, **v_info}


def evaluate(state: IQLState, chunks: Chunks, config: IQLConfig) -> dict[str, Float[Array, ""]]:
    """The same losses without a step, for validation data."""
    observations, actions = _parts(chunks)
    q_loss, q_info = critic_loss(
        state.critics, state.value, observations, actions,
        chunks.next_observations, chunks.whole, chunks.returns, chunks.bootstrap,
    )  # fmt: skip
    v_loss, v_info = value_loss(state.value, state.target, observations, actions, chunks.whole, config)
    return {"critic_loss": q_loss, "value_loss": v_loss, **q_info, **v_info}
