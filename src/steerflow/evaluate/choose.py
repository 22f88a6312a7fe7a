"""Choosing a weight on tuning episodes: where to look first, where to look next, and which one to take. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steerflow.evaluate.rows import EpisodeRow

# Multiples of the natural scale |velocity| / |gradient|, the likeliest first. In our measurements the best weights lay at .12
# to .23 of it (cube-single, chunk 5 and single actions), and beyond 1 in a maze, with a lower summit near .2 (pointmaze-large).
GRID = (0.2, 0.6, 0.06, 1.8)
# The preset that stands for what needs no tuning: it is compared as it is.
UNTUNED = "default"
# Weights closer than this cannot be told apart with any sensible number of episodes.
_FINEST_RATIO = 1.2
_STEP = 3.0
# Episodes that a setting runs before it is asked again whether it can still be chosen.
WAVE = 5


@dataclass(frozen=True)
class Point:
    """Results of one strength (a weight, or a number of candidates) on tuning episodes."""

    strength: float
    episodes: int
    # None where the environment does not tell success; the mean return decides then.
    successes: int | None
    mean_return: float
    arm: str

    @property
    def score(self) -> float:
        return self.mean_return if self.successes is None else self.successes / self.episodes


@dataclass(frozen=True)
class Curve:
    """All strengths of one method that were tried on tuning episodes, in rising order."""

    method: str
    # "weight" or "candidates".
    tuned: str
    # The recipe, as JSON, with 0 in place of what is tuned.
    recipe: dict[str, Any]
    points: tuple[Point, ...]


def best(points: Sequence[Point]) -> Point:
    """The point with the best score; among equals the one whose neighbours do best, then the smallest strength.

    Few episodes give many ties at the top; a point in the middle of a plateau is safer than one at its edge. Where nothing
    succeeded, the mean return decides. Points with fewer episodes than others were given up, or cut short, and do not count.
    """
    most = max(point.episodes for point in points)
    return _leader([point for point in points if point.episodes == most])


def due(points: Sequence[Point], whole: int) -> dict[str, range]:
    """The episodes that the arms of a curve must run next, by name; none once ``best`` of them is settled.

    Finds what ``best`` would be if all points had ``whole`` episodes, with fewer: the leader runs whole, and of the others those
    run on, ``WAVE`` episodes at a time, that could still do as well; of equals the neighbours too, which decide among them.
    Where success is not told, or nothing succeeds, all run whole.
    """
    ordered = sorted(points, key=lambda point: point.strength)

    def run(some: Iterable[Point], wave: int = whole) -> dict[str, range]:
        return {p.arm: range(p.episodes, min(p.episodes + wave, whole)) for p in some if p.episodes < whole}

    if any(point.successes is None for point in ordered):
        return run(ordered)
    if not any(point.successes for point in ordered):
        return run(ordered, WAVE)
    leader = _leader(ordered)
    if leader.episodes < whole:
        return run([leader])
    top = max(point.successes or 0 for point in ordered if point.episodes >= whole)
    able = [point for point in ordered if (point.successes or 0) + whole - point.episodes >= top]
    if unfinished := run(able, WAVE):
        return unfinished
    equal = [i for i, point in enumerate(ordered) if point in able]
    return run(ordered[j] for i in equal for j in (i - 1, i + 1) if 0 <= j < len(ordered)) if len(equal) > 1 else {}


def _leader(points: Sequence[Point]) -> Point:
    ordered = sorted(points, key=lambda point: point.strength)
    return ordered[peak(_scores(ordered), [point.episodes for point in ordered])]


def _scores(points: Sequence[Point]) -> list[float]:
    rates = [point.score for point in points]
    return rates if any(rates) else [point.mean_return for point in points]


def peak(scores: Sequence[float], episodes: Sequence[int]) -> int:
    """The index of the best score, of strengths in rising order, by the rule of ``best``."""

    def pooled(i: int) -> float:
        near = slice(max(0, i - 1), i + 2)
        return sum(s * n for s, n in zip(scores[near], episodes[near], strict=True)) / sum(episodes[near])

    top = max(scores)
    equal = [i for i, s in enumerate(scores) if math.isclose(s, top, rel_tol=1e-9, abs_tol=1e-12)]
    return max(equal, key=lambda i: (round(pooled(i), 9), -i))


def coarse_grid(scale: float, grid: Iterable[float] | None = None, budget: int | None = None) -> list[float]:
    """First weights to try, rising, at most ``budget``: ``GRID`` in units of the natural scale, or the given ones."""
    first = [rounded(w) for w in (grid if grid is not None else (m * scale for m in GRID)) if w]
    return sorted(list(dict.fromkeys(first))[:budget])


def refined(points: Sequence[Point]) -> list[float]:
    """Weights to try next: the geometric midpoints between the best and its neighbours, or beyond the end of the range.

    An empty list where the neighbours are already close. Where a side has no positive neighbour the range is extended
    by a factor of 3; where all weights do alike, on both sides, and upwards first: small weights do what none does.
    """
    weights = sorted(p.strength for p in points if p.strength > 0)
    if not weights:
        return []
    scores = _scores(points)
    if math.isclose(min(scores), max(scores), rel_tol=1e-9, abs_tol=1e-12):
        return [rounded(weights[-1] * _STEP), rounded(weights[0] / _STEP)]
    centre = best(points).strength
    if centre == 0:
        return [rounded(weights[0] / _STEP)]
    i = weights.index(centre)
    left = math.sqrt(weights[i - 1] * centre) if i > 0 else centre / _STEP
    right = math.sqrt(weights[i + 1] * centre) if i + 1 < len(weights) else centre * _STEP
    return [rounded(w) for w in (left, right) if max(w, centre) / min(w, centre) > _FINEST_RATIO]


def rounded(weight: float) -> float:
    """Three significant digits: what an arm's name shows is what is run."""
    return float(f"{weight:.3g}")


def curves(rows: Sequence[EpisodeRow]) -> list[Curve]:
    """The tuning curves in the rows of one task, policy and critic. Methods without a strength have none, nor has ``UNTUNED``.

    The plain arm (no guidance) with otherwise the same recipe is weight 0 of a guided method.
    """
    arms: dict[str, list[EpisodeRow]] = {}
    for row in rows:
        if row.split == "tune":
            arms.setdefault(_text(row.recipe) + row.arm, []).append(row)
    families: dict[tuple[str, str, str], list[Point]] = {}
    plain: dict[str, Point] = {}
    for arm in arms.values():
        first = arm[0]
        point = _point(arm)
        if first.method == UNTUNED:
            continue
        if weighted(first.recipe):
            family = _text({**first.recipe, "weight": 0})
            families.setdefault((first.method, "weight", family), []).append(point)
            continue
        plain[_text(first.recipe)] = point
        if first.candidates > 1:
            family = _text({**first.recipe, "candidates": 0})
            families.setdefault((first.method, "candidates", family), []).append(point)
    found = []
    for (method, tuned, family), points in families.items():
        zero = plain.get(_text(unguided(json.loads(family))))
        if tuned == "weight" and zero is not None and all(p.strength for p in points):
            points.append(replace(zero, strength=0.0))
        rising = sorted(points, key=lambda p: p.strength)
        found.append(Curve(method, tuned, json.loads(family), tuple(rising)))
    return sorted(found, key=lambda curve: curve.method)


def unguided(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, as JSON, that a guided one is when its weight is 0."""
    plain = {**recipe, "guidance": "none", "schedule": "constant", "refine": "none", "weight": 0.0}
    if recipe["candidates"] == 1:
        # Nothing is left that asks a critic: how critics are combined makes no difference.
        plain |= {"select": "first", "aggregate": "min"}
    return plain


def weighted(recipe: dict[str, Any]) -> bool:
    """Whether the weight of a recipe, as JSON, makes a difference."""
    return recipe["guidance"] != "none" or recipe["refine"] != "none"


def _point(rows: Sequence[EpisodeRow]) -> Point:
    first = rows[0]
    known = [row.success for row in rows if row.success is not None]
    return Point(
        strength=first.weight if weighted(first.recipe) else first.candidates,
        episodes=len(rows),
        successes=sum(known) if len(known) == len(rows) else None,
        mean_return=sum(row.return_ for row in rows) / len(rows),
        arm=first.arm,
    )


def _text(recipe: dict[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)
