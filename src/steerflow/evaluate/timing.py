"""Where the time of a run's evaluations goes; kept apart from the rows, which must not depend on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from steerflow.artefact import read_json, write_json

_FILE = "timing.json"


@dataclass
class Timing:
    """Where the time of evaluations goes, in seconds; adds up over calls."""

    wall: float = 0.0
    # Inside environments and building them, summed over workers.
    physics: float = 0.0
    building: float = 0.0
    # In policy calls, and compiling them, which other episodes need not wait for.
    policy: float = 0.0
    compile: float = 0.0
    # The deciding process waits for environments.
    waiting: float = 0.0
    # Wall time times workers: what ``physics`` and ``building`` could be at most.
    capacity: float = 0.0
    episodes: int = 0
    decisions: int = 0
    steps: int = 0
    calls: int = 0
    environments_built: int = 0

    def add(self, other: Timing) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def to_json(self) -> dict[str, Any]:
        """The fields and ``physics_share``: the part of the workers' time that was spent inside environments."""
        share = {"physics_share": self.physics / self.capacity if self.capacity else 0.0}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in {**asdict(self), **share}.items()}

    def line(self) -> str:
        """``480 episodes, 57,310 steps in 35 s (1,637/s): workers 88 % in environments, 9 % building 8 of them``."""
        physics, building = (100 * part / (self.capacity or 1.0) for part in (self.physics, self.building))
        return (
            f"{self.episodes:,} episodes, {self.steps:,} steps in {self.wall:.0f} s ({self.steps / (self.wall or 1.0):,.0f}/s): "
            f"workers {physics:.0f} % in environments, {building:.0f} % building {self.environments_built} of them"
        )

    @staticmethod
    def from_json(data: dict[str, Any]) -> Timing:
        return Timing(**{f.name: data[f.name] for f in fields(Timing) if f.name in data})


def read_timing(run: Path) -> Timing:
    """The time that all evaluations of the run took so far."""
    path = run / "evaluations" / _FILE
    return Timing.from_json(read_json(path)) if path.exists() else Timing()


def add_timing(run: Path, timing: Timing) -> None:
    total = read_timing(run)
    total.add(timing)
    (run / "evaluations").mkdir(parents=True, exist_ok=True)
    write_json(run / "evaluations" / _FILE, total.to_json())
