"""``check_data`` says what is wrong with a data set, where, and what to type; ``summarise`` says what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.artefact import META, read_json
from steerflow.data.checks.columns import check_columns
from steerflow.data.checks.finding import Finding as Finding
from steerflow.data.checks.order import check_order
from steerflow.data.checks.rewards import check_rewards
from steerflow.data.checks.splits import check_overlap, check_spaces
from steerflow.data.columns import sha256
from steerflow.data.store import DataSet, Store
from steerflow.errors import SteerflowError
from steerflow.progress import bar

_SEVERITIES = ("error", "warning", "note")


def check_data(data: DataSet | Store | Path | str, *, verify: bool = True) -> list[Finding]:
    """Everything suspicious in a data set (or one store, or one by name or path), the worst first.

    * files: checksums (``verify`` reads all bytes once more)
    * values: NaN and infinity, constant, huge and far-off dimensions; actions outside or stuck at their bounds
    * order: jumps where an end of an episode was missed, ends that are none, very short episodes, actions one row off
    * rewards: constant, odd masks, tasks that end and go on, timing (recomputed for OGBench's tasks)
    * splits: other spaces or bounds, tasks missing in one, episodes that are in both

    Works block by block on the memory-mapped columns. Raises ArtefactError where a store cannot be opened at all.
    """
    splits = _splits(data)
    found = []
    for split, store in splits.items():
        with bar(f"Check {split}", store.rows) as progress:
            here = [*_check_files(store)] if verify else []
            here += check_columns(store, progress.update)
            here += check_order(store)
            for task in store.tasks:
                here += check_rewards(store, task)
        found += [Finding(f.severity, f.column, f.message, split) for f in here]
    if len(splits) == 2:
        found += check_spaces(*splits.values())
        found += check_overlap(*splits.values())
    elif isinstance(data, DataSet | Path | str) and "val" not in splits:
        found.append(Finding("note", "val", "There is no validation split; validation losses will be missing.", "val"))
    return sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))


def summarise(data: DataSet | Store | Path | str) -> dict[str, Any]:
    """What a data set holds, per split, as plain numbers and lists.

    {"train": {"rows", "transitions", "episodes", "length": {"min", "median", "max"} (steps), "observation_dim", "action_dim",
    "action_low", "action_high", "source", "tasks": {task: {"reward_min", "reward_max", "successes", "success_rows",
    "success_episodes"}}}}.
    successes is how often the data come to the end of the task (mask 0), success_rows the share of such steps, success_episodes
    the share of episodes that hold one.
    """
    return {split: _summary(store) for split, store in _splits(data).items()}


def _splits(data: DataSet | Store | Path | str) -> dict[str, Store]:
    if isinstance(data, Store):
        return {data.path.name if data.path.name in ("train", "val") else "train": data}
    if not isinstance(data, DataSet):
        data = DataSet.open(data)
    return {"train": data.train} if data.val is None else {"train": data.train, "val": data.val}


def _summary(store: Store) -> dict[str, Any]:
    steps = np.diff(store.episode_ends, prepend=0) - 1
    low, high = store.action_bounds
    tasks = {}
    for task in store.tasks:
        try:
            rewards, masks = store.rewards(task)
        except SteerflowError as error:
            tasks[task] = {"problem": str(error)}
            continue
        acting = np.ones(store.rows, bool)
        acting[store.episode_ends - 1] = False
        done = np.flatnonzero((np.asarray(masks) == 0) & acting)
        episodes = np.unique(np.searchsorted(store.episode_ends, done, side="right"))
        tasks[task] = {
            "reward_min": float(np.min(rewards[acting])),
            "reward_max": float(np.max(rewards[acting])),
            "successes": store.ends_of_task(task),
            "success_rows": len(done) / store.transitions,
            "success_episodes": len(episodes) / store.episodes,
        }
    return {
        "rows": store.rows,
        "transitions": store.transitions,
        "episodes": store.episodes,
        "length": {"min": int(steps.min()), "median": float(np.median(steps)), "max": int(steps.max())},
        "observation_dim": int(store.observations.shape[1]),
        "action_dim": int(store.actions.shape[1]),
        "action_low": low.tolist(),
        "action_high": high.tolist(),
        "source": store.meta.get("source", {}),
        "tasks": tasks,
    }


def _check_files(store: Store) -> Iterator[Finding]:
    for name in store.verify():
        message = (
            f"The bytes of {store.path / f'{name}.npy'} do not match their checksum: the file was damaged or edited. "
        )
        yield Finding("error", name, message + "Restore it, or make or import the data set again.")
    for task in store.tasks:
        folder = store.path / "tasks" / task
        try:
            columns = read_json(folder / META)["columns"]
            changed = [n for n, facts in columns.items() if sha256(folder / f"{n}.npy") != facts["sha256"]]
        except (SteerflowError, OSError, KeyError) as error:
            yield Finding(
                "error", f"tasks/{task}", f"{folder} cannot be read ({error}). Remove it and label or import again."
            )
            continue
        for name in changed:
            message = (
                f"{name} do not match their checksum: damaged or edited. Remove {folder} and label or import again."
            )
            yield Finding("error", f"tasks/{task}", message)
