from __future__ import annotations

from typing import Protocol

from jaxtyping import Array, Float

from steerflow.steer.models import Models


class Guidance(Protocol):
    """A member of the family. ``t`` is a scalar, 0 = noise, 1 = action; ``v`` is the velocity at (a, t).

    The guidance of a row must depend on that row only. An attribute ``asks`` names what is needed beside the policy, "critic"
    for ``models.q`` or the kind of a part for ``models.parts[kind]``; without it, a critic is.
    """

    def __call__(
        self,
        models: Models,
        observations: Float[Array, "batch obs"],
        a: Float[Array, "batch flat"],
        t: Float[Array, ""],
        v: Float[Array, "batch flat"],
    ) -> Float[Array, "batch flat"]: ...
