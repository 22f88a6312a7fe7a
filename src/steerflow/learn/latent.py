"""DSRL (diffusion steering in noise space, with the flow and the critic frozen): an actor that says where the flow starts.

Noise critics ``Z_e`` learn what the flow makes of a start, ``mean (Z_e(s, z) - Q_e(s, clip(ODE(v; s, z))))^2`` for z ~ N(0, I),
each from its critic. The actor ``z = scale tanh(u)``, ``u`` Gaussian, is that of soft actor-critic on them: it minimises

    temperature log pi(tanh u | s) - mean_e Z_e(s, scale tanh u)

and the temperature keeps its entropy near ``-dim / 2``. Neither the flow nor the critic is differentiated.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from steerflow.data.index import Chunks
from steerflow.learn.config import FlowMatchingConfig, LatentConfig
from steerflow.learn.networks import Critics
from steerflow.learn.part_networks import NoiseActor
from steerflow.learn.teacher import Teacher


class Latent(eqx.Module):
    actor: NoiseActor
    critics: Critics
    log_temperature: Float[Array, ""]


def network_settings(config: LatentConfig, flow: FlowMatchingConfig) -> dict[str, Any]:
    return {"hidden": config.hidden, "noise_scale": config.noise_scale}


def init(network: NoiseActor, config: LatentConfig, teacher: Teacher, key: Key[Array, ""]) -> Latent:
    one, flat = teacher.states[:1], network.body.output.bias.shape[0] // 2
    ensemble = jax.eval_shape(teacher.ensemble, one, jnp.zeros((1, flat))).shape[0]
    critics = Critics(key, one.shape[1], flat, config.hidden, ensemble)
    return Latent(network, critics, jnp.zeros(()))


def network_of(learnt: Latent) -> NoiseActor:
    return learnt.actor


def loss(
    learnt: Latent, chunks: Chunks, config: LatentConfig, teacher: Teacher, key: Key[Array, ""]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The sum of the three losses, which share no parameters: of the noise critics, the actor and the temperature. Reported
    beside it: each of the first two, the actor's ``entropy`` and ``noise_q``, its mean value by the noise critics."""
    start_key, actor_key = jax.random.split(key)
    observations, flat = chunks.observations, learnt.actor.body.output.bias.shape[0] // 2
    seen, shape = teacher.sees(observations), (len(observations), flat)
    z = jax.random.normal(start_key, shape)
    target = teacher.ensemble(observations, endpoint(teacher, observations, z, config.steps))
    critic_loss = jnp.mean((learnt.critics(seen, z) - target) ** 2)

    z, log_density = actor_sample(learnt.actor, seen, jax.random.normal(actor_key, shape))
    q = jnp.mean(jax.lax.stop_gradient(learnt.critics)(seen, z), axis=0)
    temperature, entropy = jnp.exp(learnt.log_temperature), -jnp.mean(log_density)
    actor_loss = jnp.mean(jax.lax.stop_gradient(temperature) * log_density - q)
    temperature_loss = temperature * (jax.lax.stop_gradient(entropy) + flat / 2)
    return critic_loss + actor_loss + temperature_loss, {
        "critic_loss": critic_loss,
        "actor_loss": actor_loss,
        "entropy": entropy,
        "noise_q": jnp.mean(q),
        "temperature": temperature,
    }


def endpoint(
    teacher: Teacher, observations: Float[Array, "batch obs"], z: Float[Array, "batch flat"], steps: int
) -> Float[Array, "batch flat"]:
    """The action that the flow makes of the start ``z``: so many Euler steps, then the clip to [-1, 1]."""
    models = teacher.models._replace(times=tuple(k / steps for k in range(steps + 1)))
    return jnp.clip(models.endpoint(observations, z, jnp.zeros(())), -1.0, 1.0)


def actor_sample(
    actor: NoiseActor, seen: Float[Array, "batch obs"], normal: Float[Array, "batch flat"]
) -> tuple[Float[Array, "batch flat"], Float[Array, " batch"]]:
    """The start for standard normal numbers, and the log density of ``tanh u``:
    ``sum log N(u; mean, std) - log(1 - tanh^2 u)``."""
    mean, log_std = actor.gaussian(seen)
    u = mean + jnp.exp(log_std) * normal
    # log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u)), which does not round to log 0.
    stretch = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
    density = -0.5 * normal**2 - log_std - 0.5 * math.log(2 * math.pi) - stretch
    return actor.noise_scale * jnp.tanh(u), jnp.sum(density, axis=-1)
