from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.guidance.jacobian import clip_through
from steerflow.steer.models import Models

# Towards t = 1 the precision of what is known of the action grows without bound.
_LATEST = 0.999


@dataclass(frozen=True)
class Posterior:
    """Where could this noise lead? ``g = d/da  T log mean_n exp(Q(s, X_n(a, t)) / T)`` over samples ``X_n ~ p(a_1 | a_t = a)``.

    As samples and inner steps grow this is the gradient that the tilted policy needs: with the schedule ``tilt`` and weight
    1 / T the flow samples ``p(a) exp(Q(a) / T) / Z``. QPILOTS-M (arXiv 2606.14801) takes its samples from a distilled network;
    here the velocity itself gives them: what ``a_t`` and an inner flow's ``y`` know of the action together is what a single
    noisy action at a later time would know, so ``E[a_1 | a_t, y]`` is one evaluation of the velocity (Holderrieth et al.,
    GLASS flows). Costs ``samples * steps`` evaluations and their gradient. The inner noises are the same for all rows.
    """

    samples: int = 4
    steps: int = 2
    temperature: float = 1.0
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        def value(x):
            q = jax.vmap(lambda y: models.q(observations, clip_through(y)))(self.draw(models, observations, x, t))  # type: ignore[misc]
            return jnp.sum(self.temperature * jax.nn.logsumexp(q / self.temperature, axis=0))

        return jax.grad(value)(a)

    def draw(self, models: Models, observations, a, t) -> Float[Array, "samples batch flat"]:
        """Samples of ``p(a_1 | a_t = a)``; differentiable with respect to ``a``."""
        t = jnp.minimum(t, _LATEST)
        noises = jax.random.normal(jax.random.key(0), (self.samples, 1, a.shape[1]), a.dtype)

        def step(y, now):
            inner, left = now
            # Signal over noise of a_t and of y; together they are worth one noisy action at time `both`.
            ratio = jnp.sqrt((t / (1 - t)) ** 2 + (inner / (1 - inner)) ** 2)
            both = ratio / (1 + ratio)
            total = t / (1 - t) ** 2 * a + inner / (1 - inner) ** 2 * y
            x = jnp.where(ratio > 0, total / jnp.where(ratio > 0, ratio * (1 + ratio), 1.0), a)
            estimate = x + (1 - both) * jax.vmap(lambda one: models.velocity(observations, one, both))(x)
            return y + (estimate - y) / left, None

        k = jnp.arange(self.steps, dtype=a.dtype)
        y = jnp.broadcast_to(noises, (self.samples, *a.shape))
        return jax.lax.scan(step, y, (k / self.steps, self.steps - k))[0]
