"""A run folder as the report sees it: configuration, metrics, episode rows and arms, read once and checked."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerflow.artefact import META, TENSORS, read_json
from steerflow.errors import ArtefactError
from steerflow.evaluate.rows import EpisodeRow
from steerflow.evaluate.rows import read_run as read_rows
from steerflow.evaluate.summary import arm_summary
from steerflow.learn.config import PARTS
from steerflow.run import read_lines

# The preset without any steering: every other arm is read against it.
CLONING = "bc"

# The order, colours and markers of the usual methods are fixed, so that they are the same in every report.
USUAL = (CLONING, "qgf", "qfql", "best_of_n", "qgf_best_of_n", "qgf_normalised")

_REMAKE = "The file was edited or made by another version; the rows are safe: delete it and run the sweep again."


@dataclass(frozen=True)
class Arm:
    """One method at one strength on one task and split, summed over its episodes.

    ``success`` and its 95 % interval are None where the environment tells no success; the return counts then.
    """

    arm: str
    method: str
    weight: float
    candidates: int
    task: str
    split: str
    episodes: int
    success: float | None
    ci_low: float | None
    ci_high: float | None
    mean_return: float | None
    return_ci_low: float | None
    return_ci_high: float | None
    mean_length: float | None

    @property
    def score(self) -> tuple[float, float, float] | None:
        """(value, low, high) of what arms are compared by: success, else mean return; None if neither is known."""
        ends = (self.success, self.ci_low, self.ci_high)
        if self.success is None:
            ends = (self.mean_return, self.return_ci_low, self.return_ci_high)
        value, low, high = ends
        if value is None:
            return None
        return value, value if low is None else low, value if high is None else high

    @staticmethod
    def from_json(data: Mapping[str, Any], where: str) -> Arm:
        """Raises ArtefactError that names the field which is missing or of another type."""
        found: dict[str, Any] = {}
        for name in ("arm", "method", "task", "split"):
            found[name] = _checked(data, name, isinstance(data.get(name), str), "a text", where)
        for name in ("weight", "candidates", "episodes"):
            found[name] = _checked(data, name, is_number(data.get(name)), "a number", where)
        for name in ("success", "ci_low", "ci_high", "mean_return", "return_ci_low", "return_ci_high", "mean_length"):
            known = data.get(name) is None or is_number(data.get(name))
            found[name] = _checked(data, name, known, "a number or null", where)
        return Arm(**found)


@dataclass(frozen=True)
class Run:
    """Everything a report is made from. ``notes`` are sentences about what is missing or was left out."""

    folder: Path
    config: str
    metrics: tuple[dict[str, Any], ...]
    rows: tuple[EpisodeRow, ...]
    summary: dict[str, Any]
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({a.task for a in self.arms}))

    def rows_of(self, arm: Arm) -> list[EpisodeRow]:
        """An arm's rows in the order of their episodes."""
        found = [r for r in self.rows if (r.task, r.arm, r.split) == (arm.task, arm.arm, arm.split)]
        return sorted(found, key=lambda r: r.seed)


def read_run(folder: Path) -> Run:
    """Read a run folder. What is missing becomes a note; what is damaged raises ArtefactError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtefactError(f"There is no run folder at {folder}. Make one: steerflow demo, or steerflow train --help")
    notes: list[str] = []
    config = folder / "config.toml"
    if not config.exists():
        notes.append("There is no config.toml, so the settings of the run are not listed.")
    written = [folder / "metrics.jsonl", *(folder / kind / "metrics.jsonl" for kind in PARTS)]
    metrics = [row for path in written for row in read_lines(path) if "step" in row and "learner" in row]
    if not metrics:
        notes.append("There are no training metrics (metrics.jsonl), so there are no learning curves.")
    elif all(row.get("split") == "train" for row in metrics):
        notes.append("There are no validation losses in metrics.jsonl: the data have no validation split.")
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else {}
    listed = _listed_arms(summary, folder / "summary.json")
    rows = _of_one_training(folder, read_rows(folder), notes)
    arms = arms_of(rows) or listed
    if rows:
        notes += _disagreements(arms, listed)
    elif listed:
        notes.append("The episode rows (evaluations/*.jsonl) are gone; the table shows what summary.json says of them.")
    else:
        notes.append(f"Nothing has been evaluated yet. To evaluate: steerflow sweep {folder}")
    if not (metrics or arms or config.exists()):
        raise ArtefactError(
            f"{folder} is not a run folder: it has no config.toml, metrics.jsonl, evaluations or summary.json."
        )
    text = config.read_text(errors="replace") if config.exists() else ""
    return Run(folder, text, tuple(metrics), tuple(rows), summary, tuple(arms), tuple(notes))


def arms_of(rows: Sequence[EpisodeRow]) -> list[Arm]:
    """The table of arms, from rows alone."""
    groups: dict[tuple[str, str, str], list[EpisodeRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.split, row.arm), []).append(row)
    return [Arm.from_json(arm_summary(group), "the episode rows") for _, group in sorted(groups.items())]


def method_order(method: str) -> tuple[int, str]:
    """Sorts methods: the usual ones first, in their order, then the others by name."""
    return (USUAL.index(method) if method in USUAL else len(USUAL)), method


def mean(values: Iterable[float | None]) -> float | None:
    """Mean over the values that are there; None if none is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def artefact_facts(folder: Path) -> dict[str, Any]:
    """An artefact's meta data and its number of ``parameters``, without loading a network."""
    meta = read_json(folder / META)
    try:
        with open(folder / TENSORS, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        sizes = [math.prod(t["shape"]) for name, t in header.items() if not name.startswith(("__", "normaliser."))]
    except (OSError, ValueError, OverflowError, MemoryError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{folder / TENSORS} is not a safetensors file; it was truncated or edited. Train again."
        ) from error
    return {**meta, "parameters": sum(sizes)}


def fingerprint(folder: Path) -> str:
    """The name under which an artefact stands in episode rows; empty if there is no artefact."""
    return str(read_json(folder / META).get("sha256", ""))[:16] if (folder / META).exists() else ""


def _of_one_training(folder: Path, rows: list[EpisodeRow], notes: list[str]) -> list[EpisodeRow]:
    """The rows of one policy, critic and part of each kind per task: the run's own if there are any, else those with most."""
    kept, left_out = [], 0
    for task in sorted({r.task for r in rows}):
        here = [r for r in rows if r.task == task]
        counts = Counter((r.policy, r.critic) for r in here)
        own = (fingerprint(folder / "policy"), fingerprint(folder / "critic" / task))
        policy, critic = own if own in counts else max(sorted(counts), key=lambda pair: (counts[pair], pair[1]))
        # Behaviour cloning that was run without a critic belongs to every critic.
        same = [r for r in here if r.policy == policy and r.critic in (critic, "")]
        for kind in sorted({kind for r in same for kind in r.parts}):
            seen = Counter(r.parts[kind] for r in same if kind in r.parts)
            mine = fingerprint(folder / kind / task)
            part = mine if mine in seen else max(sorted(seen), key=seen.__getitem__)
            same = [r for r in same if r.parts.get(kind, part) == part]
        kept += same
        left_out += len(here) - len(same)
    if left_out:
        notes.append(f"{left_out:,} episodes of another policy or critic (of an earlier training?) were left out.")
    return kept


def _listed_arms(summary: Mapping[str, Any], path: Path) -> list[Arm]:
    arms = summary.get("arms", [])
    if not isinstance(arms, list) or not all(isinstance(a, dict) for a in arms):
        raise ArtefactError(f"'arms' in {path} is not a list of objects. {_REMAKE}")
    return [Arm.from_json(a, f"arms[{i}] of {path}") for i, a in enumerate(arms)]


def _disagreements(arms: Sequence[Arm], listed: Sequence[Arm]) -> list[str]:
    """A summary that does not follow from the rows beside it is named, not trusted silently."""
    if not listed:
        return ["There is no table in summary.json; everything here was rebuilt from the episode rows."]
    said = {(a.task, a.arm, a.split): (a.episodes, a.success) for a in listed}
    wrong = [a for a in arms if said.get((a.task, a.arm, a.split)) != (a.episodes, a.success)]
    if not wrong:
        return []
    names = ", ".join(f"{a.arm} ({a.split})" for a in wrong[:3]) + (", …" if len(wrong) > 3 else "")
    return [f"summary.json does not fit the episode rows for {len(wrong)} arm(s): {names}. This report shows the rows."]


def _checked(data: Mapping[str, Any], name: str, good: bool, kind: str, where: str) -> Any:
    if not good:
        raise ArtefactError(f"{name!r} in {where} is {data.get(name)!r} instead of {kind}. {_REMAKE}")
    return data.get(name)
