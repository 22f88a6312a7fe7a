from __future__ import annotations

from typing import ClassVar, Protocol

from jaxtyping import Array, Float

from steerflow.steer.models import Models


class Guidance(Protocol):
    """A member of the family. ``t`` is a scalar, 0 = noise, 1 = action; ``v`` is the velocity at (a, t).

    The guidance of a row must depend on that row only. ``asks_critic`` says whether ``models.q`` is needed.
    """

    asks_critic: ClassVar[bool]

    def __call__(
        self,
        models: Models,
        observations: Float[Array, "batch obs"],
        a: Float[Array, "batch flat"],
        t: Float[Array, ""],
        v: Float[Array, "batch flat"],
    ) -> Float[Array, "batch flat"]: ...
