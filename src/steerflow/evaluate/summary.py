"""RUN/summary.json: tables, choices and comparisons, rebuilt from the episode rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from steerflow.artefact import package_versions, read_json, write_json
from steerflow.errors import ArtefactError
from steerflow.evaluate.choose import best, curves
from steerflow.evaluate.rows import EpisodeRow, read_run
from steerflow.evaluate.statistics import mean_interval, paired_difference, wilson
from steerflow.evaluate.timing import read_timing

# Rows of the short rollouts that measure a method's natural scale.
SCALE = "scale"


def summarise(
    run: Path, *, seconds: Mapping[str, float] | None = None, data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Build ``RUN/summary.json`` from the rows in ``RUN/evaluations`` and return it.

    ``seconds`` (by phase) and ``data`` (what was trained on) are not in the rows: given ones are written, others are
    kept from the summary that is there. Raises ArtefactError if the run has no rows.
    """
    rows = read_run(run)
    if not rows:
        raise ArtefactError(f"No episodes were evaluated in {run} yet. Run: steerflow sweep {run}")
    known = read_json(run / "summary.json") if (run / "summary.json").exists() else {}
    groups = _comparable(rows)
    summary = {
        "arms": [arm_summary(arm) for arm in _arms(rows)],
        "choice": _unique(c for group in groups for c in _choices(group, _scales(run, group))),
        "comparisons": _unique(c for group in groups for c in _comparisons(group)),
        "optimistic": _unique(c for group in groups for c in _optimistic(group)),
        "seeds": {split: _range(rows, split) for split in ("tune", "test") if _range(rows, split)},
        "versions": package_versions(),
        "timing": read_timing(run).to_json(),
        "seconds": {**known.get("seconds", {}), **(seconds or {})},
        "data": {**known.get("data", {}), **(data or {})},
    }
    write_json(run / "summary.json", summary)
    return summary


def arm_summary(rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    """The table entry of one arm on one task and split; success and its interval are None where it is not told."""
    first, successes = rows[0], _successes(rows)
    low, high = (None, None) if successes is None else wilson(successes, len(rows))
    returns = [row.return_ for row in rows]
    return_low, return_high = mean_interval(returns)
    return {
        "arm": first.arm,
        "method": first.method,
        "weight": first.weight,
        "candidates": first.candidates,
        "task": first.task,
        "split": first.split,
        "episodes": len(rows),
        "successes": successes,
        "success": None if successes is None else successes / len(rows),
        "ci_low": low,
        "ci_high": high,
        "mean_return": _mean(returns),
        "return_ci_low": return_low,
        "return_ci_high": return_high,
        "mean_length": _mean([row.length for row in rows]),
        "mean_q": _mean([row.q for row in rows if row.q is not None]),
        "mean_gradient_norm": _mean([row.gradient_norm for row in rows if row.gradient_norm is not None]),
        "mean_velocity_norm": _mean([row.velocity_norm for row in rows if row.velocity_norm is not None]),
        "mean_clipped_fraction": _mean([row.clipped_fraction for row in rows if row.clipped_fraction is not None]),
        "policy": first.policy,
        "critic": first.critic,
        "parts": first.parts,
    }


def arm_line(arm: Mapping[str, Any]) -> str:
    """One arm's result as a sentence: ``qgf w=0.1: 97/100 = 0.97 [0.92, 0.99] success, return -61.2, length 62``."""
    rest = f"return {arm['mean_return']:.1f}, length {arm['mean_length']:.0f}"
    if arm["success"] is None:
        rest = f"return {arm['mean_return']:.2f} [{arm['return_ci_low']:.2f}, {arm['return_ci_high']:.2f}]"
        return f"{arm['arm']}: {arm['episodes']} episodes, {rest}, length {arm['mean_length']:.0f}"
    rate = f"{arm['success']:.2f} [{arm['ci_low']:.2f}, {arm['ci_high']:.2f}]"
    return f"{arm['arm']}: {arm['successes']}/{arm['episodes']} = {rate} success, {rest}"


def _choices(rows: Sequence[EpisodeRow], scales: Mapping[str, float]) -> list[dict[str, Any]]:
    found = []
    tuned = [row for row in rows if row.split == "tune"]
    arms = {arm[0].arm: arm_summary(arm) for arm in _grouped(tuned, lambda row: (row.arm,))}
    for curve in curves(rows):
        if len(curve.points) < 2:
            continue
        point = best(curve.points)
        listed = ("arm", "weight", "candidates", "episodes", "successes", "success", "ci_low", "ci_high", "mean_return")
        found.append(
            {
                "method": curve.method,
                "arm": point.arm,
                curve.tuned: point.strength,
                "task": rows[0].task,
                "split": "tune",
                "episodes": point.episodes,
                "tuned": curve.tuned,
                "scale": scales.get(curve.method),
                "rule": "most successes (else highest mean return); ties: the pooled neighbours', then the smallest",
                "curve": [
                    {name: arms[p.arm][name] for name in listed} | {curve.tuned: p.strength} for p in curve.points
                ],
            }
        )
    return found


def _comparisons(rows: Sequence[EpisodeRow]) -> list[dict[str, Any]]:
    """Each method's chosen arm against behaviour cloning, and against the chosen arm that was best while tuning."""
    results = {row.arm: row.method for row in rows if row.split == "test"}
    chosen = {c.method: best(c.points) for c in curves(rows) if len(c.points) > 1}
    arms = [arm for arm, method in results.items() if method not in chosen or chosen[method].arm == arm]
    plain = [arm for arm in arms if results[arm] == "bc"]
    candidates = [p for p in chosen.values() if p.arm in results]
    leading = [best([p]).arm for p in sorted(candidates, key=lambda p: -p.score)[:1]]
    pairs = [(arm, other) for arm in arms for other in dict.fromkeys(plain + leading) if arm != other]
    found = []
    for arm, other in pairs:
        ours, theirs = ([r for r in rows if r.split == "test" and r.arm == name] for name in (arm, other))
        told = all(row.success is not None for row in ours + theirs)
        a, b = ({r.seed: float(r.success) if told else r.return_ for r in part} for part in (ours, theirs))  # pyright: ignore
        if not a.keys() & b.keys():
            continue
        measure = "success" if told else "return"
        facts = {"arm": arm, "against": other, "task": rows[0].task, "split": "test", "measure": measure}
        found.append({**facts, **asdict(paired_difference(a, b))})
    return found


def _optimistic(rows: Sequence[EpisodeRow]) -> list[dict[str, Any]]:
    """For each method the best arm on the reported episodes themselves, where there were several to pick from."""
    found = []
    for group in _grouped([row for row in rows if row.split == "test"], lambda row: (row.method,)):
        arms = [arm_summary(arm) for arm in _arms(group)]
        if len(arms) < 2:
            continue
        top = max(arms, key=lambda arm: (arm["success"] or 0.0, arm["mean_return"]))
        note = f"optimistic: the maximum over {len(arms)} arms on the very episodes that are reported"
        found.append({**top, "over": len(arms), "note": note})
    return found


def _scales(run: Path, rows: Sequence[EpisodeRow]) -> dict[str, float]:
    made = {(r.task, r.fingerprints) for r in rows}
    probes = [r for r in read_run(run, SCALE) if (r.task, r.fingerprints) in made]
    by_method = _grouped(probes, lambda row: (row.method,))
    return {group[0].method: scale for group in by_method if (scale := natural_scale(group)) is not None}


def natural_scale(rows: Sequence[EpisodeRow]) -> float | None:
    """Mean norm of the velocity over that of what weight 1 adds to it; None where that is nothing."""
    velocity = _mean([row.velocity_norm for row in rows if row.velocity_norm is not None])
    gradient = _mean([row.gradient_norm for row in rows if row.gradient_norm is not None])
    return velocity / gradient if velocity and gradient else None


def _comparable(rows: Sequence[EpisodeRow]) -> list[list[EpisodeRow]]:
    """Rows by task, policy and critic; where these have several parts of a kind, each of them with all rows that ask none."""
    found = []
    for group in _grouped(rows, lambda row: (row.task, row.policy, row.critic)):
        names = {(kind, name) for row in group for kind, name in row.parts.items()}
        kinds = sorted({kind for kind, _ in names})
        for one in product(*([pair for pair in sorted(names) if pair[0] == kind] for kind in kinds)):
            found.append([row for row in group if row.parts.items() <= dict(one).items()])
    return found


def _unique(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without repetitions: arms that ask no part of a kind are compared with those of each."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        if entry not in found:
            found.append(entry)
    return found


def _arms(rows: Sequence[EpisodeRow]) -> list[list[EpisodeRow]]:
    ordered = sorted(
        rows, key=lambda row: (row.task, row.split, row.method != "bc", row.method, row.weight, row.candidates)
    )
    return _grouped(ordered, lambda row: row.arm_key)


def _grouped(rows: Sequence[EpisodeRow], key) -> list[list[EpisodeRow]]:
    groups: dict[tuple, list[EpisodeRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _successes(rows: Sequence[EpisodeRow]) -> int | None:
    told = [row.success for row in rows if row.success is not None]
    return sum(told) if len(told) == len(rows) else None


def _range(rows: Sequence[EpisodeRow], split: str) -> list[int]:
    seeds = [row.seed for row in rows if row.split == split]
    return [min(seeds), max(seeds)] if seeds else []


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
