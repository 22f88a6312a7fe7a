"""Predicted Q against success and distance from the data (QGF's figure 4 and appendix D).

For every arm that was evaluated, its actions in the same held-out states of the data: what the critic predicts for them,
and how far they lie from the data. Success comes from the episode rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.analyse.distance import Neighbours
from steerflow.analyse.states import Pairs, draw_pairs
from steerflow.data.store import DataSet
from steerflow.errors import SteerflowError
from steerflow.evaluate.arms import Actors, Arm
from steerflow.evaluate.rows import EpisodeRow, read_rows, rows_path
from steerflow.evaluate.statistics import mean_entry
from steerflow.evaluate.summary import arm_summary
from steerflow.load import load_parts
from steerflow.progress import bar
from steerflow.steer.presets import recipe
from steerflow.steer.recipe import Recipe


def run_values(
    run: Path,
    task: str,
    data: DataSet,
    *,
    states: int = 256,
    recorded: int = 20_000,
    seed: int = 0,
    methods: Sequence[str] = (),
    weights: Sequence[float] = (),
    actors: Actors | None = None,
) -> list[dict[str, Any]]:
    """A point for every arm of the run's own policy and critic that has rows, of test episodes where it has these.

    methods: only these; weights: further ones for guided methods, whose points have no success. ``distance`` is in units of
    that of behaviour cloning's own actions: 1 is as far as cloning itself is. ``q_gain`` is how much more the critic
    predicts than for cloning's actions in the same states. The first point is the recorded actions' own. Raises
    SteerflowError where nothing was evaluated.
    """
    rows = [row for row in read_rows(rows_path(run, task)) if not methods or row.method in (*methods, "bc")]
    evaluated = _evaluated(run, task, rows)
    if len(evaluated) < 2:
        of = f" of {', '.join(methods)}" if methods else ""
        raise SteerflowError(
            f"No episodes{of} were evaluated in {run} on {task}. Evaluate first: steerflow sweep {run} --task {task} --curve"
        )
    arms = [*evaluated, *((arm, []) for arm in _further([arm for arm, _ in evaluated], weights))]
    plain = evaluated[0][0]
    if plain.critic is None:
        raise SteerflowError(f"{run} has no critic of {task}. Train one first: steerflow train critic --help")
    held_out, pairs = draw_pairs(data, plain.policy.spec, states, recorded, seed)
    actors, neighbours = actors or Actors(), Neighbours.of(pairs.observations, pairs.chunks)
    actors.prepare(arm for arm, _ in arms)
    cloning, cloned_q = _act(actors, plain, held_out)
    cloned = neighbours.nearest(held_out.observations, cloning)
    own = _ratio(neighbours.nearest(held_out.observations, held_out.chunks), cloned)
    made = {
        "task": task,
        "policy": plain.policy.fingerprint,
        "critic": plain.critic.fingerprint,
    }
    points = [{"line": "data", "arm": "recorded actions", **made, **mean_entry("distance", own)}]
    with bar(f"Actions on {task}", len(arms)) as progress:
        for arm, found in arms:
            chunks, q = _act(actors, arm, held_out)
            distance = _ratio(neighbours.nearest(held_out.observations, chunks), cloned)
            point = {"line": arm.method, "arm": arm.name, **made, "recipe": arm.recipe.to_json(), **mean_entry("q", q)}
            point |= {
                **mean_entry("q_gain", q - cloned_q),
                **mean_entry("distance", distance),
                **(_success(found) if found else {"success": None}),
            }
            points.append(point)
            progress.update(len(points) - 1, arm.name)
    return points


def _evaluated(run: Path, task: str, rows: Sequence[EpisodeRow]) -> list[tuple[Arm, list[EpisodeRow]]]:
    """The arms of the run's own artefacts, behaviour cloning first, with their rows of test episodes, or else of tuning."""
    groups: dict[tuple, list[EpisodeRow]] = {}
    for row in sorted(rows, key=lambda row: (row.method, row.weight, row.candidates)):
        groups.setdefault((row.arm, str(row.recipe)), []).append(row)
    recipes = [Recipe.from_json(group[0].recipe) for group in groups.values()]
    policy, critic, parts = load_parts(run, task, [recipe("bc"), *recipes])
    found = [(Arm.of("bc", policy, critic, recipe("bc")), [])]
    for chosen, group in zip(recipes, groups.values(), strict=True):
        used = {kind: part for kind, part in parts.items() if kind in chosen.asks}
        arm = Arm(group[0].arm, group[0].method, policy, critic, chosen, used)
        own = [row for row in group if row.fingerprints == arm.fingerprints]
        tested = [row for row in own if row.split == "test"] or own
        if arm.recipe == recipe("bc"):
            found[0] = arm, tested
        elif tested:
            found.append((arm, tested))
    return found


def _further(arms: Sequence[Arm], weights: Sequence[float]) -> list[Arm]:
    """The guided methods among the arms at further weights."""
    known = {arm.name for arm in arms}
    guided = {arm.method: arm for arm in arms if arm.recipe.guided}.values()
    further = [
        Arm.of(arm.method, arm.policy, arm.critic, arm.recipe.replace(weight=w), arm.parts)
        for arm in guided
        for w in weights
    ]
    return [arm for arm in further if arm.name not in known]


def _act(actors: Actors, arm: Arm, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """(chunks (states, flat) scaled to [-1, 1], q (states,)) in all states, with the same noise for all arms."""
    seeds, spec = np.arange(len(pairs)), arm.policy.spec
    weights = np.full(len(pairs), arm.recipe.weight, np.float32)
    actors.prepare([arm])
    actions, info = actors.of(arm).result().rows(seeds, np.zeros_like(seeds), pairs.observations, weights)
    return spec.scale_actions(actions).reshape(len(pairs), -1), np.asarray(info["q"], np.float64)


def _ratio(distances: np.ndarray, cloned: np.ndarray) -> np.ndarray:
    """Values (states,) whose mean is mean(distances) / mean(cloned), and whose spread is that of the ratio: that both are
    of the same states counts, to first order."""
    ratio = distances.mean() / cloned.mean()
    return ratio + (distances - ratio * cloned) / cloned.mean()


def _success(rows: Sequence[EpisodeRow]) -> dict[str, Any]:
    """Of the rows: success, and the critic's value over their episodes (``q_episodes``) and at their first states."""
    summary, first = arm_summary(rows), [row.q_first for row in rows if row.q_first is not None]
    listed = ("split", "episodes", "successes", "success", "ci_low", "ci_high", "mean_return")
    facts = {name: summary[name] for name in listed}
    return facts | {"q_episodes": summary["mean_q"], "q_first": sum(first) / len(first) if first else None}
