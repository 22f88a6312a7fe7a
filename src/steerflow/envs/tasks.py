"""Tasks by name: OGBench single tasks and any registered gymnasium environment with Box spaces.

A task id is a gymnasium id, such as ``cube-single-singletask-task2-v0`` or ``my_module:MyEnv-v0`` (the module is
imported first). OGBench's names of data sets are understood wherever a task is asked for:
``cube-single-play-singletask-task2-v0`` is task 2, ``cube-single-play`` and ``cube-single-singletask-v0`` are the
default task of the family.
"""

from __future__ import annotations

import copy
import importlib
import os
import random
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from steerflow.errors import DataError, MismatchError, SteerflowError, unknown

if TYPE_CHECKING:
    import gymnasium

_DATA = re.compile(
    r"(?P<family>.+)-(?P<kind>play|noisy|navigate|stitch|explore)(?P<size>-\d+[kmb])?"
    r"(?P<single>-singletask(-task(?P<number>\d))?)?(-v0)?"
)
_TASK = re.compile(r"(?P<family>.+)-singletask(-task(?P<number>\d))?(-v0)?")
# Which of a family's five tasks OGBench means when none is named; the others' default is 1.
_DEFAULT_NUMBER = {"cube": 2, "scene": 2, "puzzle": 4, "antsoccer": 4}


class TaskError(SteerflowError):
    """An environment that cannot be made, cannot be used here, or failed while it ran."""


def canonical_task(name: str) -> str:
    """The task's gymnasium id; unknown names are returned as they are (see ``require_known_task``)."""
    match = _DATA.fullmatch(name) or _TASK.fullmatch(name)
    if match is None or match["family"] not in _families():
        return name
    return _single_task(match["family"], match["number"])


def canonical_data_name(name: str) -> str:
    """The name of an OGBench data set without ``-v0`` and task; other names are returned as they are.

    Raises DataError for a task id, which names no data set (``cube-single-singletask-task2-v0``: play or noisy?).
    """
    if match := _DATA.fullmatch(name):
        return f"{match['family']}-{match['kind']}{match['size'] or ''}"
    if match := _TASK.fullmatch(name):
        kinds = ("navigate", "stitch") if "maze" in match["family"] else ("play", "noisy")
        options = " or ".join(f"{match['family']}-{kind}" for kind in kinds)
        raise DataError(f"{name!r} is a task; several data sets fit it. Say which: {options}.")
    return name


def tasks_of_data(name: str) -> list[str]:
    """The five single tasks of an OGBench data set; an empty list for other data."""
    match = _DATA.fullmatch(name)
    if match is None or match["family"] not in _families():
        return []
    return [_single_task(match["family"], str(number)) for number in range(1, 6)]


def known_tasks() -> list[str]:
    """All OGBench single tasks with state observations."""
    return sorted(_single_task(family, str(number)) for family in _families() for number in range(1, 6))


def require_known_task(name: str) -> str:
    """The canonical id of a task that can be made here.

    Raises UnknownNameError with the nearest names, or TaskError for pixels and goal-conditioned environments.
    """
    task = canonical_task(name)
    registry = _registry()
    module, _, plain = task.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise TaskError(f"Task {task!r} names the module {module!r}, which cannot be imported: {error}") from error
    if plain not in registry:
        hint = "Any gymnasium environment works too; write module:Name-v0 if a module registers it."
        if tasks := tasks_of_data(f"{plain.removesuffix('-v0')}-play"):
            hint = f"{plain!r} is a family of tasks; choose one, such as {tasks[0]}."
        raise unknown("task", name, [*known_tasks(), *(i for i in registry if not _is_ogbench(registry[i]))], hint)
    if _is_ogbench(registry[plain]):
        if plain.startswith("visual-"):
            raise TaskError(
                f"{task!r} has pixel observations: not supported. Use {plain.removeprefix('visual-')!r} instead."
            )
        if "-singletask" not in plain:
            tasks = tasks_of_data(f"{plain.removesuffix('-v0')}-play")
            example = f" Use a single task, such as {tasks[0]!r}." if tasks else ""
            raise TaskError(f"{task!r} is goal-conditioned or without a fixed task, which is not supported.{example}")
    return task


def steps_limit(task: str) -> int | None:
    """After how many steps an episode of the task ends at the latest; None where no registration says it."""
    spec = _registry().get(canonical_task(task).rpartition(":")[2])
    return None if spec is None else spec.max_episode_steps


def make_env(task: str, **options: Any) -> gymnasium.Env:
    """Build the environment of a task; ``options`` go to ``gymnasium.make``.

    Observations and actions are Box vectors. Start episodes with ``reset_env``; they then depend on their seed alone.
    Raises UnknownNameError for unknown tasks and TaskError for environments that cannot be used or built.
    """
    import gymnasium

    task = require_known_task(task)
    of_ogbench = _is_ogbench(_registry()[task.rpartition(":")[2]])
    try:
        with _no_warnings_of_bounds(), no_temporary_files() if of_ogbench else nullcontext():
            # The checker would test every step of every episode again.
            env = gymnasium.make(task, **{"disable_env_checker": True, **options})
            _require_vectors(task, env)
            _keep_action_space(env)
            # The first reset compiles the model and leaves other solver states behind than later ones do.
            reset_env(env, 0)
    except SteerflowError:
        raise
    except Exception as error:
        hint = f" MUJOCO_GL is {os.environ['MUJOCO_GL']!r}; try without it." if "MUJOCO_GL" in os.environ else ""
        raise TaskError(
            f"The environment of {task!r} could not be built: {type(error).__name__}: {error}.{hint}"
        ) from error
    return env


def copy_env(env: gymnasium.Env) -> gymnasium.Env | None:
    """Another environment like one that ``make_env`` built, or None where only building gives it.

    OGBench's manipulation environments are copied, a tenth of a second instead of one; the tree from which their model was
    compiled, which does not change any more, is shared. An environment of somebody else may hold what must not be copied, and
    a later OGBench what refuses to be.
    """
    if env.spec is None or not str(env.spec.entry_point).startswith("ogbench.manipspace"):
        return None
    shared = {id(element): element for element in _model_elements(vars(env.unwrapped))}
    try:
        copied = copy.deepcopy(env, shared)
    except (NotImplementedError, TypeError):
        return None
    # The copy keeps an action space of its own.
    copied.unwrapped.__class__ = type(env.unwrapped).__bases__[0]
    with _no_warnings_of_bounds():
        _keep_action_space(copied)
    return copied


@contextmanager
def no_temporary_files() -> Iterator[None]:
    """Remove what is put into the folder for temporary files: each of OGBench's mazes leaves its model there."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def _no_warnings_of_bounds() -> Iterator[None]:
    """OGBench gives float64 bounds to float32 spaces, each time it makes one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        yield


def _model_elements(value: Any) -> Iterator[Any]:
    """The elements of dm_control's model trees in an attribute, which refuse to be copied."""
    from dm_control.mjcf import Element

    if isinstance(value, Element):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _model_elements(one)


def reset_env(env: gymnasium.Env, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Start an episode that is a function of (task, seed, actions) alone, whatever the process did before.

    OGBench draws from three generators while it resets: the environment's, that of its action space and, in mazes,
    numpy's global one. The last one is used in steps too (teleporters): whoever interleaves environments in one
    process must save and restore ``global_random_state`` around them.
    """
    np.random.seed(seed % 2**32)  # noqa: NPY002 (environments use it)
    random.seed(seed)
    env.action_space.seed(seed)
    env.unwrapped.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    return np.asarray(observation), info


def global_random_state() -> tuple[Any, Any]:
    """The states of numpy's and Python's global generators; see ``set_global_random_state``."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002


def set_global_random_state(state: tuple[Any, Any]) -> None:
    np.random.set_state(state[0])  # noqa: NPY002
    random.setstate(state[1])


def _registry() -> dict[str, Any]:
    import ogbench  # noqa: F401 (registers its environments)
    from gymnasium.envs.registration import registry

    return registry


def _is_ogbench(spec: Any) -> bool:
    return str(spec.entry_point).startswith("ogbench.")


def _families() -> set[str]:
    """OGBench families with single tasks and state observations, such as ``cube-single``."""
    suffix = "-singletask-task1-v0"
    return {i.removesuffix(suffix) for i in _registry() if i.endswith(suffix) and not i.startswith("visual-")}


def _single_task(family: str, number: str | None) -> str:
    number = number or str(_DEFAULT_NUMBER.get(family.split("-")[0], 1))
    return f"{family}-singletask-task{number}-v0"


def _require_vectors(task: str, env: gymnasium.Env) -> None:
    from gymnasium.spaces import Box

    for name, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, Box):
            wanted = (
                "gymnasium.wrappers.FlattenObservation"
                if name == "observation"
                else "a wrapper with continuous actions"
            )
            raise TaskError(
                f"The {name} space of {task!r} is {space}; only Box vectors are supported. Register it with {wanted}."
            )
        if len(space.shape) != 1:
            pixels = " Pixel observations are not supported." if len(space.shape) == 3 else ""
            raise MismatchError(
                f"The {name} space of {task!r} has shape {space.shape}; only vectors are supported.{pixels}"
            )


def _keep_action_space(env: gymnasium.Env) -> None:
    """Make an environment that builds a new action space at every access keep one, so that it can be seeded.

    OGBench's manipulation environments do that, and take two random actions in every reset: without this no seed
    gives the same episode twice.
    """
    base = env.unwrapped
    if base.action_space is not base.action_space:
        kind = type(base)
        base.__class__ = type(kind.__name__, (kind,), {"action_space": base.action_space})
