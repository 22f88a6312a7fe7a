"""Behaviour cloning of a flow policy by flow matching (Lipman et al. 2023; QGF section 3)."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from steerflow.data.index import Chunks
from steerflow.learn.config import FlowMatchingConfig
from steerflow.learn.networks import Velocity
from steerflow.learn.path import flow_times, interpolate, target_velocity
from steerflow.spec import Spec


class FlowMatchingState(eqx.Module):
    velocity: Velocity
    optimiser: Any


def init(key: Key[Array, ""], spec: Spec, config: FlowMatchingConfig) -> FlowMatchingState:
    velocity = Velocity(key, spec.observation_dim, spec.flat_dim, config.hidden, config.time_frequency)
    return FlowMatchingState(velocity, optax.adam(config.learning_rate).init(velocity))  # pyright: ignore[reportArgumentType]


def flow_matching_loss(
    velocity: Velocity, chunks: Chunks, key: Key[Array, ""], config: FlowMatchingConfig
) -> Float[Array, ""]:
    """Mean of ``|v(s, a_t, t) - (a_1 - a_0)|^2`` over the steps that lie in the recording and their dimensions.

    ``a_1`` is the data's chunk in [-1, 1], ``a_0`` Gaussian noise, ``t`` as configured.
    """
    batch, chunk, _ = chunks.actions.shape
    noise_key, time_key = jax.random.split(key)
    action = chunks.actions.reshape(batch, -1)
    noise = jax.random.normal(noise_key, action.shape)
    t = flow_times(time_key, batch, config)
    error = velocity(chunks.observations, interpolate(noise, action, t), t) - target_velocity(noise, action)
    per_step = jnp.mean(error.reshape(batch, chunk, -1) ** 2, axis=-1)
    return jnp.sum(per_step * chunks.step_mask) / jnp.maximum(jnp.sum(chunks.step_mask), 1.0)


def update(
    state: FlowMatchingState, chunks: Chunks, key: Key[Array, ""], config: FlowMatchingConfig
) -> tuple[FlowMatchingState, dict[str, Float[Array, ""]]]:
    """One step of Adam on the loss."""
    loss, gradient = jax.value_and_grad(flow_matching_loss)(state.velocity, chunks, key, config)
    step, optimiser = optax.adam(config.learning_rate).update(gradient, state.optimiser)
    velocity = optax.apply_updates(state.velocity, step)  # pyright: ignore[reportArgumentType]
    return FlowMatchingState(velocity, optimiser), {"loss": loss}  # pyright: ignore[reportArgumentType]


def evaluate(
    state: FlowMatchingState, chunks: Chunks, key: Key[Array, ""], config: FlowMatchingConfig
) -> dict[str, Float[Array, ""]]:
    """The same loss without a step, for validation data."""
    return {"loss": flow_matching_loss(state.velocity, chunks, key, config)}
