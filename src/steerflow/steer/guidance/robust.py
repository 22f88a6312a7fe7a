from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Robust:
    """RobustQ: ``g = dQ_r/da (s, a, t)`` for a critic ``Q_r`` that was trained on noisy chunks (arXiv 2606.11087).

    It is asked where the flow is, and has seen such points; but noise hides the action, so early gradients say little. The
    unit is the critic's, as for ``one_step``.
    """

    asks: ClassVar[tuple[str, ...]] = ("robust",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        # The sum over rows: each row's gradient is its own, whatever the batch.
        return jax.grad(lambda x: jnp.sum(models.parts["robust"](observations, x, t)))(a)
