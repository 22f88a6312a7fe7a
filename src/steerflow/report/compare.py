"""What the episode rows say about arms against each other: families, choices, optimism, paired differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerflow.evaluate.choose import best, curves
from steerflow.evaluate.rows import EpisodeRow
from steerflow.evaluate.statistics import PairedDifference, paired_difference
from steerflow.report.read import CLONING, Arm, Run, method_order


@dataclass(frozen=True)
class Family:
    """The arms of one method on one task that differ in strength only: in weight, or in candidates where nothing guides."""

    task: str
    method: str
    name: str
    tune: tuple[Arm, ...]
    test: tuple[Arm, ...]
    # The arm whose strength was chosen on tuning episodes, or the only arm: its name, and its results on test episodes.
    # None where nothing says which, or where it was not tested. At strength 0 it is an arm of behaviour cloning's.
    chosen: str | None
    result: Arm | None

    @property
    def weighted(self) -> bool:
        return any(a.weight > 0 for a in (*self.tune, *self.test))

    @property
    def tuned(self) -> bool:
        """Whether there was a choice."""
        return len({a.arm for a in (*self.tune, *self.test)}) > 1

    @property
    def strengths(self) -> tuple[float, ...]:
        return tuple(sorted({self.strength(a) for a in (*self.tune, *self.test)}))

    def strength(self, arm: Arm) -> float:
        return arm.weight if self.weighted else arm.candidates

    @property
    def optimistic(self) -> Arm | None:
        """The best arm on the test episodes themselves; None unless there were several to pick from."""
        scored = [(a.score, a) for a in self.test if a.score is not None]
        return max(scored, key=lambda sa: sa[0][0])[1] if len(scored) > 1 else None


@dataclass(frozen=True)
class Difference:
    """``arm`` minus ``against`` on the test episodes that both have run; ``measure`` is "success" or "return"."""

    task: str
    arm: str
    against: str
    measure: str
    paired: PairedDifference


def families(run: Run) -> list[Family]:
    """All families, by task, behaviour cloning first."""
    groups: dict[tuple[str, str, str], list[Arm]] = {}
    for arm in run.arms:
        groups.setdefault((arm.task, arm.method, _family_name(arm)), []).append(arm)
    choices = _choices(run)
    found = []
    for (task, method, name), arms in groups.items():
        arms = sorted(arms, key=lambda a: (a.weight, a.candidates))
        tune, test = (tuple(a for a in arms if a.split == split) for split in ("tune", "test"))
        names = {a.arm for a in arms}
        picked = [c for t, m, c in choices if t == task and (c in names or m == name)]
        chosen = names.pop() if len(names) == 1 else picked[0] if picked else None
        tested = [a for a in run.arms if (a.task, a.split, a.arm) == (task, "test", chosen)]
        found.append(Family(task, method, name, tune, test, chosen, tested[0] if tested else None))
    return sorted(found, key=lambda f: (f.task, method_order(f.method), f.name))


def leading(found: Iterable[Family]) -> Family | None:
    """The steered family that a headline is about: QGF if it is there, else the best one on tuning episodes."""
    steered = [f for f in found if f.method != CLONING and f.result is not None and f.result.method != CLONING]
    scores = {f.name: [a.score[0] for a in f.tune if a.arm == f.chosen and a.score is not None] for f in steered}
    order = sorted(steered, key=lambda f: (f.method != "qgf", -max(scores[f.name], default=float("-inf")), f.name))
    return order[0] if order else None


def differences(run: Run, found: Sequence[Family], task: str) -> list[Difference]:
    """Each family's chosen arm against behaviour cloning, then the leading one against the other methods."""
    here = [f for f in found if f.task == task]
    results = {f.name: f.result for f in here if f.result is not None and f.result.method != CLONING}
    cloning = next((f.result for f in here if f.method == CLONING), None)
    lead = leading(here)
    pairs = [(arm, cloning) for arm in results.values()]
    if lead is not None:
        pairs += [(lead.result, arm) for name, arm in results.items() if name != lead.name]
    compared = [difference(run, arm, against) for arm, against in pairs if arm is not None and against is not None]
    return [d for d in compared if d is not None]


def difference(run: Run, arm: Arm, against: Arm) -> Difference | None:
    """The paired difference over the episodes that both have; None if there are none."""
    ours, theirs = run.rows_of(arm), run.rows_of(against)
    told = all(r.success is not None for r in (*ours, *theirs))
    a, b = ({r.seed: _outcome(r, told) for r in rows} for rows in (ours, theirs))
    if not a.keys() & b.keys():
        return None
    return Difference(arm.task, arm.arm, against.arm, "success" if told else "return", paired_difference(a, b))


def _outcome(row: EpisodeRow, told: bool) -> float:
    return float(bool(row.success)) if told else row.return_


def _family_name(arm: Arm) -> str:
    """The arm's name without its strength: "qgf w=0.1 steps=20" -> "qgf steps=20"."""
    strengths = r" w=\S+" if arm.weight > 0 else r" (w|n)=\S+"
    return re.sub(strengths, "", arm.arm) or arm.method


def _choices(run: Run) -> list[tuple[str, str, str]]:
    """(task, method, chosen arm): as summary.json tells, else by the same rule from the rows."""
    told = run.summary.get("choice")
    if isinstance(told, list):
        return [(str(c.get("task")), str(c.get("method")), str(c.get("arm"))) for c in told if isinstance(c, dict)]
    found = []
    for task in run.tasks:
        tuned = curves([r for r in run.rows if r.task == task])
        found += [(task, curve.method, best(curve.points).arm) for curve in tuned if len(curve.points) > 1]
    return found
