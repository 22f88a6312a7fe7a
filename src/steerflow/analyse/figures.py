"""The figures of evaluations: each names its arms, and the axes they are drawn against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerflow.analyse.measure import Case, Lab
from steerflow.errors import SteerflowError
from steerflow.evaluate.choose import UNTUNED
from steerflow.report.read import artefact_facts
from steerflow.steer.presets import PRESETS, recipe

_PARTS = (("policy", "critic"), ("critic", "policy"))
_ENSEMBLES = (2, 5, 10)

Points = list[dict[str, Any]]


@dataclass(frozen=True)
class Axis:
    """What points are drawn against: an entry of theirs."""

    label: str
    of: Callable[[Mapping[str, Any]], float | str]
    log: bool = False


AXES: dict[str, tuple[Axis, ...]] = {
    "weight": (Axis("guidance weight w", lambda point: point["strength"], log=True),),
    "candidates": (Axis("candidates", lambda point: point["candidates"], log=True),),
    "flops": (Axis("floating-point operations for an action", lambda point: point["flops"], log=True),),
    "size": (Axis("parameters of policy and critics", lambda point: point["parameters"], log=True),),
    "critic": (Axis("run whose part is swapped in", lambda point: point["swapped"]),),
    "steps": (
        Axis("steps", lambda point: point["steps"], log=True),
        Axis("calls of the velocity network", lambda point: point["calls"]["velocity"], log=True),
    ),
    "schedule": (Axis("schedule", lambda point: point["shape"]),),
    "chunk": (Axis("actions in a chunk", lambda point: point["chunk"]),),
    "pessimism": (Axis("critics", lambda point: point["critics"]),),
}


def weight(lab: Lab, runs: Sequence[Path], methods: Sequence[str]) -> Points:
    """The whole curve of each method; only guided ones have a weight."""
    (run,) = runs
    for name in methods:
        _require_guided(name)
    return lab.measure([Case(name, name, recipe(name), run, strength="curve") for name in methods])


def candidates(lab: Lab, runs: Sequence[Path], method: str, numbers: Sequence[int]) -> Points:
    """Behaviour cloning and ``method``, at its chosen weight, with the best of several candidates by the critic."""
    return lab.measure(_searches(lab, runs, method, numbers))


def flops(lab: Lab, runs: Sequence[Path], method: str, numbers: Sequence[int], others: Sequence[str]) -> Points:
    """``candidates``, and other methods at their chosen weights."""
    (run,) = runs
    cases = [Case(name, name, recipe(name), run) for name in others]
    return lab.measure([*_searches(lab, runs, method, numbers), *cases], flops=True)


def size(lab: Lab, runs: Sequence[Path], methods: Sequence[str]) -> Points:
    """Runs that differ in the size of their networks."""
    parts = {
        run: [artefact_facts(f)["parameters"] for f in (run / "policy", run / "critic" / lab.task)] for run in runs
    }
    return lab.measure(
        [Case(n, n, recipe(n), run, facts={"parameters": sum(parts[run])}) for n in ("bc", *methods) for run in runs]
    )


def critic(lab: Lab, runs: Sequence[Path], method: str) -> Points:
    """The first run's policy with the critic of each run, and the policy of each run with the first run's critic."""
    first, chosen, names = runs[0], recipe(method), _names(runs)
    critics, policies = (f"{method}: {one} of {names[first]}, {other} of" for one, other in _PARTS)
    cases = [Case(critics, method, chosen, first, run, facts={"swapped": names[run]}) for run in runs]
    cases += [Case(policies, method, chosen, run, first, facts={"swapped": names[run]}) for run in runs]
    return lab.measure([*cases, *(Case("bc", "bc", recipe("bc"), run, facts={"swapped": names[run]}) for run in runs)])


def steps(lab: Lab, runs: Sequence[Path], method: str, solvers: Sequence[str], numbers: Sequence[int]) -> Points:
    """Solvers at equal steps; the second axis compares them at equal network calls. Sweeps run cloning's points anyway."""
    (run,) = runs
    return lab.measure(
        [
            Case(f"{name}, {solver}", name, recipe(name, solver=solver, steps=n), run, facts={"steps": n})
            for name in (method, "bc")
            for solver in solvers
            for n in numbers
        ]
    )


def schedule(lab: Lab, runs: Sequence[Path], method: str, shapes: Sequence[str]) -> Points:
    (run,) = runs
    cases = [(shape, recipe(method, schedule=shape)) for shape in shapes]
    return lab.measure([Case(method, method, changed, run, facts={"shape": shape}) for shape, changed in cases])


def chunk(lab: Lab, runs: Sequence[Path], methods: Sequence[str]) -> Points:
    """Runs that differ in the length of their chunks."""
    chunks = {run: artefact_facts(run / "policy")["spec"]["chunk"] for run in runs}
    return lab.measure(
        [Case(n, n, recipe(n), run, facts={"chunk": chunks[run]}) for n in ("bc", *methods) for run in runs]
    )


def pessimism(
    lab: Lab,
    runs: Sequence[Path],
    methods: Sequence[str],
    aggregates: Sequence[str],
    others: Sequence[str],
    numbers: Sequence[int],
) -> Points:
    """Every method with every aggregate, and ``others`` with their own, for the first so many critics of the ensemble."""
    (run,) = runs
    there = lab.critic(run).ensemble
    numbers = numbers or [n for n in _ENSEMBLES if n <= there] or [there]
    chosen = [(f"{name}, {how}", name, recipe(name, aggregate=how)) for name in methods for how in aggregates]
    chosen += [(name, name, recipe(name)) for name in others]
    return lab.measure([Case(*one, run, critics=n, facts={"critics": n}) for one in chosen for n in numbers])


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """The runs' folder names, or whole paths where these are alike, as those of seeds are."""
    different = len({run.name for run in runs}) == len(runs)
    return {run: run.name if different else str(run) for run in runs}


def _require_guided(method: str) -> None:
    if not recipe(method).guided or method == UNTUNED:
        why = "is what it is" if method == UNTUNED else "has no guidance"
        guided = ", ".join(name for name, preset in PRESETS.items() if preset.guided and name != UNTUNED)
        raise SteerflowError(f"{method} {why}, so there is no weight to vary. Methods with guidance: {guided}.")


def _searches(lab: Lab, runs: Sequence[Path], method: str, numbers: Sequence[int]) -> list[Case]:
    (run,) = runs
    _require_guided(method)
    (tuned,) = lab.measure([Case(method, method, recipe(method), run)])
    bases = {"bc": recipe("bc"), method: recipe(method, weight=tuned["weight"])}
    return [_best_of(line, base, n, run) for line, base in bases.items() for n in numbers]


def _best_of(line: str, base: Any, n: int, run: Path) -> Case:
    """The base itself for one candidate; the presets' names where there are some, so that other evaluations' rows count."""
    if n == 1:
        return Case(line, line, base, run, strength="given")
    name = {"bc": "best_of_n", "qgf": "qgf_best_of_n"}.get(line, line)
    return Case(line, name, base.replace(candidates=n, select="best_of_n"), run, strength="given")
