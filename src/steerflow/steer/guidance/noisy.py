from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Noisy:
    """QFQL: the critic's gradient at the noisy action, ``g = dQ/da (s, a)``.

    Cheaper to think of than QGF and as cheap to run, but the critic is asked about actions it never saw.
    """

    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        return models.q_gradient(observations, a)
