"""How bench measures: repeated timings, the machine's own limits, and the table that a part fills."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steerflow.artefact import package_versions
from steerflow.learn.config import Precision
from steerflow.machine import machine


@dataclass(frozen=True)
class Options:
    """What all parts share."""

    # Data set that is trained on, and its task; made by `make demo`.
    data: str = "cube-single-play-500k"
    task: str = "cube-single-singletask-task2-v0"
    # A trained run, for acting and sweeps.
    run: Path = Path("runs/demo")
    # Width of the four hidden layers of each network, where a part trains or times fresh networks.
    hidden: tuple[int, ...] = (256, 512)
    # Repetitions of each timing; their median is reported, with the lowest and the highest.
    repeats: int = 7
    # A smaller run of everything, to see that it works; its figures mean nothing.
    quick: bool = False
    # A folder for large temporary files.
    scratch: Path = Path("bench/scratch")
    # Programs of others, for the same table.
    others: tuple[Other, ...] = ()


@dataclass(frozen=True)
class Other:
    """A third party's program, timed as a whole process: the difference of two runs, so that its start-up cancels.

    ``command`` holds ``{n}``, which is replaced by a number of units of work (updates, decisions, steps).
    """

    part: str
    name: str
    folder: Path
    command: str
    # Units of the shorter run; the longer does three times as many.
    units: int
    # The table's group to which it belongs; by default the first.
    group: str = ""

    def measure(self, table: Table, repeats: int = 3) -> None:
        """Add a row in the unit of its group, and how many times as fast as it steerflow is there.

        It stands beside "NAME, the usual way", so it is compared with NAME; where there is none, with the first row of ours.
        """
        group = self.group or next(iter(table.groups))
        if group not in table.groups:
            raise RuntimeError(f"{table.part} has no group {group!r}: {', '.join(table.groups)}")
        rows = table.groups[group]
        beside = {row.name.removesuffix("the usual way").removesuffix(", ") for row in rows if row.role == "usual"}
        mine = [row for row in rows if row.role == "steerflow"] or rows
        ours = next((row for row in mine if row.name in beside), mine[0])
        rates = [self.rate() for _ in range(repeats)]
        faster = ours.unit.endswith("/s")
        in_unit = rates if faster else [(1e3 if ours.unit.startswith("ms") else 1) / rate for rate in rates]
        theirs = table.add(group, self.name, "other", ours.unit, in_unit, "differences of two runs")
        table.ratio(f"{group}: times {self.name}", ours.median / theirs if faster else theirs / ours.median)

    def rate(self) -> float:
        """Units per second; raises RuntimeError with what the program printed last if it fails."""
        seconds = []
        for n in (self.units, 3 * self.units):
            begin = time.perf_counter()
            done = subprocess.run(
                self.command.replace("{n}", str(n)), shell=True, cwd=self.folder, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            seconds.append(time.perf_counter() - begin)
            if done.returncode:
                raise RuntimeError(f"{self.name} ended with code {done.returncode}:\n{done.stdout[-2000:]}")
        return 2 * self.units / (seconds[1] - seconds[0])


@dataclass(frozen=True)
class Row:
    """One measured thing. ``role``: "steerflow", "usual" (the usual way, written by us), "limit" (the machine), "other"."""

    name: str
    role: str
    unit: str
    median: float
    low: float
    high: float
    repeats: int
    note: str = ""


@dataclass
class Table:
    """What a part measured, in one run. Rows of one ``group`` share a unit and are drawn together."""

    part: str
    title: str
    settings: dict[str, Any]
    groups: dict[str, list[Row]] = field(default_factory=dict)
    # Ratios of medians, and other derived figures, each with its target where there is one.
    ratios: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, group: str, name: str, role: str, unit: str, values: list[float], note: str = "") -> float:
        """Add a row from repeated values; returns their median."""
        median = statistics.median(values)
        row = Row(name, role, unit, _short(median), _short(min(values)), _short(max(values)), len(values), note)
        self.groups.setdefault(group, []).append(row)
        print(f"  {group}: {name:<46} {row.median:>10g} {unit} ({row.low:g} to {row.high:g})", flush=True)
        return median

    def ratio(self, name: str, value: float, target: str = "") -> None:
        self.ratios[name] = {"value": _short(value), **({"target": target} if target else {})}
        print(f"  {name}: {_short(value):g}" + (f" (target {target})" if target else ""), flush=True)

    def to_json(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "title": self.title,
            "settings": self.settings,
            "machine": machine(),
            "versions": package_versions(),
            "groups": {name: [asdict(row) for row in rows] for name, rows in self.groups.items()},
            "ratios": self.ratios,
        }


def _short(x: float) -> float:
    return float(f"{x:.4g}")


def seconds(run: Callable[[], Any], repeats: int, warm_up: int = 1) -> list[float]:
    """Seconds of each of ``repeats`` calls after ``warm_up`` others; ``run`` must wait for its own result."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def product_rate(batch: int, width: int, precision: Precision = "float32", products: int = 400) -> float:
    """The machine's limit for networks: FLOP/s of (batch, width) x (width, width) products, one after the other.

    In bfloat16 the results are float32 all the same, as in training.
    """
    import jax
    import jax.numpy as jnp

    a, w = jnp.ones((batch, width)), jnp.full((width, width), 1 / width, precision)
    product = lambda x, w: jnp.matmul(x.astype(w.dtype), w, preferred_element_type=jnp.float32)  # noqa: E731
    run = jax.jit(lambda a, w: jax.lax.fori_loop(0, products, lambda _, x: product(x, w), a))
    return 2 * batch * width * width * products / min(seconds(lambda: run(a, w).block_until_ready(), 5))


def read_rate(nbytes: int = 1 << 30) -> float:
    """The machine's limit for small batches and data: bytes/s of reading float32 in order, all cores, by a sum.

    With ``nbytes`` beyond the caches this is the memory's rate, with fewer that of the cache that holds them.
    """
    import jax
    import jax.numpy as jnp

    x = jnp.ones((nbytes // 4 // 4096, 4096), jnp.float32)
    run = jax.jit(lambda x: jnp.sum(x, axis=0))
    repeats = max(5, min(200, (1 << 30) // nbytes))
    return nbytes / min(seconds(lambda: run(x).block_until_ready(), repeats))
