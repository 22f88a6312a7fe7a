from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from steerflow.steer.models import Models


@dataclass(frozen=True)
class Keep:
    """No refinement: the flow's end is the action."""

    asks: ClassVar[tuple[str, ...]] = ()

    def __call__(self, models: Models, observations, a: Float[Array, "batch flat"]) -> Float[Array, "batch flat"]:
        return a
