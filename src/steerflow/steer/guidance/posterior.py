from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.errors import SteerflowError
from steerflow.steer.guidance.jacobian import clip_through
from steerflow.steer.models import Models

# Towards t = 1 the precision of what is known of the action grows without bound.
_LATEST = 0.999


@dataclass(frozen=True)
class Posterior:
    """Where could this noise lead? ``g = d/da  1/beta log mean_n exp(beta Q(s, X_n(a, t)))``, samples ``X_n ~ p(a_1 | a_t = a)``.

    ``beta`` is ``1 / temperature``, or the recipe's weight where the temperature is None. Then, with the schedule ``tilt``, the
    flow samples ``p(a) exp(weight Q(a)) / Z``, as samples and inner steps grow. QPILOTS-M (arXiv 2606.14801) takes its samples
    from a distilled network; here the velocity itself gives them: what ``a_t`` and an inner flow's ``y`` know of the action
    together is what a single noisy action at a later time would know, so ``E[a_1 | a_t, y]`` is one evaluation of the velocity
    (Holderrieth et al., GLASS flows). Costs ``samples * steps`` evaluations and their gradient. The inner noises are the same
    for all rows.
    """

    samples: int = 4
    steps: int = 2
    temperature: float | None = 1.0
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.steps < 1 or not (self.temperature is None or self.temperature > 0):
            raise SteerflowError(f"posterior needs samples, steps and a temperature above 0; it is {self}.")

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        beta = models.weight if self.temperature is None else 1 / self.temperature

        def value(x):
            q = _of_samples(models.q, observations, clip_through(self.draw(models, observations, x, t)))
            # The derivative of 1/beta log mean exp(beta q); so written it has one at beta 0, where it is that of the mean.
            return jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(beta * q, axis=0)) * q)

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
            estimate = x + (1 - both) * _of_samples(models.velocity, observations, x, both)
            return y + (estimate - y) / left, None

        k = jnp.arange(self.steps, dtype=a.dtype)
        y = jnp.broadcast_to(noises, (self.samples, *a.shape))
        return jax.lax.scan(step, y, (k / self.steps, self.steps - k))[0]


def _of_samples(
    function, observations, x: Float[Array, "samples batch flat"], *more
) -> Float[Array, "samples batch *answer"]:
    """A network's answers for all samples, which it sees as rows of one batch."""
    rows = function(jnp.tile(observations, (len(x), 1)), x.reshape(-1, x.shape[-1]), *more)
    return rows.reshape(*x.shape[:2], *rows.shape[1:])
