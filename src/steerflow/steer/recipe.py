"""A recipe: how to steer. Six swappable values and a weight; everything that a method does at test time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steerflow.errors import MismatchError, SteerflowError, unknown
from steerflow.steer.aggregate import AGGREGATES, Min
from steerflow.steer.family import asks_of
from steerflow.steer.guidance import GUIDANCES, Nothing
from steerflow.steer.noise import NOISES, Gaussian
from steerflow.steer.refine import REFINES, Keep
from steerflow.steer.schedule import SCHEDULES, Constant
from steerflow.steer.select import SELECTS, First
from steerflow.steer.solver import SOLVERS, Euler

_FAMILIES = {
    "noise": NOISES,
    "solver": SOLVERS,
    "guidance": GUIDANCES,
    "schedule": SCHEDULES,
    "refine": REFINES,
    "select": SELECTS,
    "aggregate": AGGREGATES,
}


@dataclass(frozen=True)
class Recipe:
    """Members may be given as values or as text: ``Recipe(guidance="one_step", schedule="window(start=0.3)")``."""

    # Where the flow starts.
    noise: Any = field(default_factory=Gaussian)
    # How it is integrated, and on which grid: ``steps`` equal steps, or the ``times`` from 0 to 1.
    solver: Any = field(default_factory=Euler)
    steps: int = 10
    times: tuple[float, ...] | None = None
    # Which vector is added to the velocity, how strongly and when.
    guidance: Any = field(default_factory=Nothing)
    weight: float | Callable[[Any], Any] = 0.0
    schedule: Any = field(default_factory=Constant)
    # Steps that share one guidance: with 2 it is asked at every second step and added at both.
    guide_every: int = 1
    # What happens after the flow, to how many candidates, and which of them is executed.
    refine: Any = field(default_factory=Keep)
    candidates: int = 1
    select: Any = field(default_factory=First)
    # How the ensemble of critics becomes one Q.
    aggregate: Any = field(default_factory=Min)

    def __post_init__(self) -> None:
        for name, family in _FAMILIES.items():
            object.__setattr__(self, name, family.parse(getattr(self, name)))
        for name in ("steps", "candidates", "guide_every"):
            if getattr(self, name) < 1:
                raise SteerflowError(f"{name} must be at least 1; it is {getattr(self, name)}.")
        if self.times is not None:
            times = tuple(float(t) for t in self.times)
            if len(times) < 2 or times[0] != 0 or times[-1] != 1 or any(b <= a for a, b in itertools.pairwise(times)):
                raise SteerflowError(f"times must rise from 0 to 1; they are {times}.")
            object.__setattr__(self, "times", times)
        if isinstance(self.guidance, Nothing) and not isinstance(self.refine, Keep) and self.schedule != Constant():
            raise SteerflowError(
                f"The schedule {SCHEDULES.write(self.schedule)} scales guidance, and this recipe has none: "
                f"{REFINES.name_of(self.refine)} takes its weight as it is. Leave the schedule out."
            )
        if not callable(self.weight) and not abs(float(self.weight)) < float("inf"):
            raise SteerflowError(f"The weight must be a finite number; it is {self.weight}.")

    @property
    def time_grid(self) -> tuple[float, ...]:
        """The flow times from 0 to 1 between which the solver steps."""
        return self.times or tuple(k / self.steps for k in range(self.steps + 1))

    @property
    def due(self) -> tuple[bool, ...]:
        """For each step, whether guidance is asked anew: at every ``guide_every``-th of the steps in which it acts."""
        before = itertools.accumulate((bool(self.acts(t)) for t in self.time_grid[:-2]), initial=0)
        return tuple(n % self.guide_every == 0 for n in before)

    def acts(self, t: Any) -> Any:
        """Whether guidance may act at flow time ``t``; True itself where the schedule rules out no time."""
        return self.schedule.acts(t) if hasattr(self.schedule, "acts") else True

    @property
    def guided(self) -> bool:
        """Whether the weight makes a difference: something is added to the velocity, or the flow's end is refined."""
        return not (isinstance(self.guidance, Nothing) and isinstance(self.refine, Keep))

    @property
    def asks(self) -> frozenset[str]:
        """What the action depends on beside the policy: "critic", and kinds of parts."""
        return frozenset(
            name for member in (self.noise, self.guidance, self.refine, self.select) for name in asks_of(member)
        )

    def parts_asked(self, given: Mapping[str, Any]) -> list[str]:
        """The kinds of parts that the recipe asks; raises MismatchError for one that was not given."""
        asked = sorted(self.asks - {"critic"})
        for kind in asked:
            if kind not in given:
                raise MismatchError(
                    f"This recipe asks the part {kind!r}, but it was not given. Train it: steerflow train {kind} --run RUN. "
                    f"Then: steer(policy, critic, method, parts=[steerflow.load_part(RUN, {kind!r})])."
                )
        return asked

    def replace(self, **changes: Any) -> Recipe:
        """A copy with changes; raises with the nearest names for an unknown field."""
        fields = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in fields:
                raise unknown("setting of a recipe", name, fields)
        return dataclasses.replace(self, **changes)

    def structure(self) -> Recipe:
        """The same recipe with weight 0: recipes of equal structure share one compiled function."""
        return dataclasses.replace(self, weight=0.0)

    def to_json(self) -> dict[str, Any]:
        """Members as text; raises for a weight that is a function, which no file can hold."""
        if callable(self.weight):
            raise SteerflowError("A recipe whose weight is a function cannot be written to a file; use a schedule.")
        plain = {
            "steps": self.steps,
            "times": self.times and list(self.times),
            "weight": float(self.weight),
            "candidates": self.candidates,
        } | ({"guide_every": self.guide_every} if self.guide_every > 1 else {})
        return {name: family.write(getattr(self, name)) for name, family in _FAMILIES.items()} | plain

    @staticmethod
    def from_json(data: dict[str, Any]) -> Recipe:
        return Recipe().replace(**{name: tuple(v) if isinstance(v, list) else v for name, v in data.items()})
