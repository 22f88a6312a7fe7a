from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.guidance.jacobian import clip_of
from steerflow.steer.models import Models


@dataclass(frozen=True)
class Chain:
    """QGF-chain: the critic's gradient at the action to which the flow alone would lead, ``g = dQ/da (s, clip(a_1(a, t)))``.

    ``a_1`` takes Euler steps over the rest of the solver's times instead of one; its Jacobian is left out, as in QGF. Asked at
    the last step it is QGF.
    """

    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        return models.q_gradient(observations, jnp.clip(models.endpoint(observations, a, t), -1.0, 1.0))


@dataclass(frozen=True)
class Bptt:
    """Backpropagation through time: ``g = d/da Q(s, clip(a_1(a, t)))`` through all that is left of the flow.

    The exact gradient of the executed action's value; long products of Jacobians make it the least stable one. Without
    ``through_clip`` the clip's derivative is taken as the identity.
    """

    through_clip: bool = True
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        clip = clip_of(self.through_clip)
        end, pull = jax.vjp(lambda x: clip(models.endpoint(observations, x, t)), a)
        return pull(models.q_gradient(observations, end))[0]
