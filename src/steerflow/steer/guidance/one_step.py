from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class OneStep:
    """Q-Guided Flow: the critic's gradient at a one-step estimate of the clean action (arXiv 2606.11087).

    ``g = dQ/da (s, clip(a + (1 - t) v, -1, 1))``, the gradient with respect to the estimate itself: neither the clip nor
    the velocity network is differentiated. Off the data's noise levels the critic is never asked.
    """

    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        estimate = models.one_step_estimate(a, t, jax.lax.stop_gradient(v))
        return models.q_gradient(observations, estimate)
