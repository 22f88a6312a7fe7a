from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class ClassifierFree:
    """CFGRL: ``g = v_1(s, a, t) - v_0(s, a, t)``, the velocity of the data's better actions less that of all (arXiv 2505.23458).

    It is added to the frozen policy's velocity, so that weight 0 is the reference policy itself; the paper adds it to ``v_0``,
    which learns the same from the same data. A weight of 1 imitates the better actions alone, larger ones go beyond; the paper
    has 1 to 15. No critic is asked when acting.
    """

    asks: ClassVar[tuple[str, ...]] = ("optimal",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        velocity = models.parts["optimal"]
        return velocity(observations, a, t, True) - velocity(observations, a, t, False)
