"""Rewards of OGBench's single tasks for data that hold the simulator's state.

The reward of row j is the number of sub-goals met in its state minus the number of sub-goals, and the mask is 0 where all
are met: a success is absorbing. The single-task environments pay the same, at the same time (before the step).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steerflow.data.store import Store
from steerflow.errors import DataError, MismatchError

# Rows labelled at once; the library's float64 copies of a block stay below about 100 MB.
_BLOCK = 100_000


def label(store: Store, task: str, *, force: bool = False) -> None:
    """Write rewards and masks of ``task`` into the store; does nothing where they are there already, unless ``force``.

    ``task`` is the id of an OGBench single task, or that of a data set and task (``cube-single-play-singletask-task2-v0``).
    The store needs the column ``qpos``, and ``button_states`` for scene and puzzle. Works through the memory-mapped columns
    in blocks, so that only the two new columns are held in memory.

    Raises UnknownNameError for unknown tasks, DataError where the task cannot be labelled or a column is missing, and
    MismatchError where the data are from another environment than the task.
    """
    from steerflow.data.generate.world import quiet
    from steerflow.envs.tasks import (
        global_random_state,
        make_env,
        require_known_task,
        set_global_random_state,
        tasks_of_data,
    )

    task = require_known_task(task)
    if task in store.tasks and not force:
        return
    family = task.split("-singletask")[0]
    if task not in tasks_of_data(f"{family}-play"):
        raise DataError(
            f"Only OGBench's single tasks can be labelled, not {task!r}. Rewards of other tasks come with the import: "
            "steerflow data import --help"
        )
    needed = ("qpos", "button_states") if family.startswith(("scene", "puzzle")) else ("qpos",)
    missing = [name for name in needed if name not in store.info]
    if missing:
        raise DataError(
            f"The store at {store.path} has no column {missing[0]!r}, without which {task!r} cannot be labelled. "
            "Import the set with it, or make it: steerflow data make --help"
        )
    # OGBench's resets draw from the global generators; the caller's numbers must not depend on whether data were labelled.
    state = global_random_state()
    try:
        with quiet():
            env = make_env(task)
        _require_same_world(store, task, env)
        rewards, masks = _relabel(task, env, {name: store.info[name] for name in needed})
        env.close()
    finally:
        set_global_random_state(state)
    store.add_task(task, rewards, masks)


def _relabel(task: str, env: Any, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    from ogbench.relabel_utils import relabel_dataset

    from steerflow.data.generate.world import quiet

    rows = len(columns["qpos"])
    rewards, masks = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for start in range(0, rows, _BLOCK):
        block = slice(start, start + _BLOCK)
        data = {name: np.asarray(column[block]) for name, column in columns.items()}
        with quiet():
            relabel_dataset(task, env, data)
        rewards[block], masks[block] = data["rewards"], data["masks"]
    return rewards, masks


def _require_same_world(store: Store, task: str, env: Any) -> None:
    """The goal of one environment says nothing about the states of another, even where their shapes are equal."""
    source = store.meta["source"]
    made_in = source["settings"]["env"] if source.get("kind") == "generated" else None
    family = task.split("-singletask")[0]
    if made_in is not None and made_in != f"{family}-v0":
        raise MismatchError(f"The data at {store.path} are from {made_in}; {task!r} is a task of {family}-v0.")
    base = env.unwrapped
    shapes = {
        "observations": (store.observations.shape[1], env.observation_space.shape[0]),
        "qpos": (store.info["qpos"].shape[1], base.model.nq),
    }
    if "button_states" in store.info and hasattr(base, "_num_buttons"):
        shapes["button_states"] = (store.info["button_states"].shape[1], base._num_buttons)
    for name, (has, wants) in shapes.items():
        if has != wants:
            raise MismatchError(
                f"{name} at {store.path} has {has} dimensions, {task!r} needs {wants}: these data are from another environment."
            )
