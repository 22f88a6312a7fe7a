from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.errors import SteerflowError
from steerflow.steer.family import asks_of
from steerflow.steer.models import Models
from steerflow.steer.schedule import SCHEDULES


@dataclass(frozen=True)
class Total:
    """A weighted sum of guidances: ``g = sum_i factor_i g_i``. As text: ``sum(terms=(("one_step", 1.0), ("noisy", 0.2)))``.

    A term may have a schedule of its own, ``("one_step", 1.3, "steepness")``, which takes the factor as its weight: guidances of
    different units add up so. The recipe's weight and schedule scale the whole sum.
    """

    terms: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        if not (isinstance(self.terms, tuple) and self.terms and all(map(_is_term, self.terms))):
            raise SteerflowError('A sum of guidances needs terms: sum(terms=(("one_step", 1.0), ("noisy", 0.2))).')
        self._parsed()

    @property
    def asks(self) -> tuple[str, ...]:
        return tuple({part: None for guidance, _, _ in self._parsed() for part in asks_of(guidance)})

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        total = jnp.zeros_like(a)
        for guidance, factor, schedule in self._parsed():
            g = guidance(models, observations, a, t, v)
            total += jnp.reshape(schedule(models, factor, t, v, g), (-1, 1)) * g
        return total

    def _parsed(self) -> list[tuple[Any, float, Any]]:
        """(guidance, factor, schedule) of each term."""
        from steerflow.steer.guidance import GUIDANCES  # the family that this member belongs to

        return [
            (GUIDANCES.parse(name), factor, SCHEDULES.parse(own[0] if own else "constant"))
            for name, factor, *own in self.terms
        ]


def _is_term(x: Any) -> bool:
    """Whether it is (guidance, factor) or (guidance, factor, schedule)."""
    return (
        isinstance(x, tuple)
        and len(x) in (2, 3)
        and isinstance(x[1], int | float)
        and all(isinstance(schedule, str) for schedule in x[2:])
    )
