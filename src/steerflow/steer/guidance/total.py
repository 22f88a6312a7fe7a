from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Float

from steerflow.errors import SteerflowError
from steerflow.steer.family import asks_of
from steerflow.steer.models import Models


@dataclass(frozen=True)
class Total:
    """A weighted sum of guidances: ``g = sum_i factor_i g_i``. As text: ``sum(terms=(("one_step", 1.0), ("noisy", 0.2)))``."""

    terms: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        pair = lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], int | float)  # noqa: E731
        if not (isinstance(self.terms, tuple) and self.terms and all(map(pair, self.terms))):
            raise SteerflowError('A sum of guidances needs terms: sum(terms=(("one_step", 1.0), ("noisy", 0.2))).')
        for name, _ in self.terms:
            self._parse(name)

    @property
    def asks(self) -> tuple[str, ...]:
        return tuple({part: None for name, _ in self.terms for part in asks_of(self._parse(name))})

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        return sum(factor * self._parse(name)(models, observations, a, t, v) for name, factor in self.terms)  # type: ignore[return-value]

    @staticmethod
    def _parse(name: str):
        from steerflow.steer.guidance import GUIDANCES  # the family that this member belongs to

        return GUIDANCES.parse(name)
