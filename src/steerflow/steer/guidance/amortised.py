from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Amortised:
    """QGF's guidance, predicted: a small network distilled from the critic's gradient stands in for it.

    ``g = G(s, clip(a + (1 - t) v, -1, 1))`` with ``G ~ dQ/da``, in the same units, so that a weight means the same as for
    ``one_step``. A forward pass through a network several times smaller; no critic and no gradient when acting.
    """

    asks: ClassVar[tuple[str, ...]] = ("amortised",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        return models.parts["amortised"](observations, models.one_step_estimate(a, t, v))
