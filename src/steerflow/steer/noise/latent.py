from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float, Key

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Latent:
    """DSRL: ``a_0`` is drawn by an actor that learnt which starts the flow turns into good actions.

    The flow itself stays as it is. No critic is asked when acting. It was learnt for Euler with 10 steps, and fits others as
    far as they lead from a start to the same action.
    """

    asks: ClassVar[tuple[str, ...]] = ("latent",)

    def __call__(
        self, models: Models, keys: Key[Array, " batch"], observations: Float[Array, "batch obs"], flat: int
    ) -> Float[Array, "batch flat"]:
        normal = jax.vmap(lambda key: jax.random.normal(key, (flat,), observations.dtype))(keys)
        return models.parts["latent"](observations, normal)
