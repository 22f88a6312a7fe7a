"""Names of tasks and data sets; environments whose episodes depend on their seed alone."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from steerflow.envs import tasks
from steerflow.errors import DataError, MismatchError, SteerflowError, UnknownNameError

HERE = "envs_for_tests:steerflow-test"


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("cube-single-singletask-task2-v0", "cube-single-singletask-task2-v0"),
        ("cube-single-singletask-task3", "cube-single-singletask-task3-v0"),
        ("cube-single-play-singletask-task4-v0", "cube-single-singletask-task4-v0"),
        ("cube-single-play-singletask-v0", "cube-single-singletask-task2-v0"),
        ("cube-single-play-v0", "cube-single-singletask-task2-v0"),
        ("cube-single-noisy", "cube-single-singletask-task2-v0"),
        ("puzzle-4x4-play", "puzzle-4x4-singletask-task4-v0"),
        ("cube-triple-play-100m-v0", "cube-triple-singletask-task2-v0"),
        ("pointmaze-medium-navigate-v0", "pointmaze-medium-singletask-task1-v0"),
        ("antsoccer-arena-stitch", "antsoccer-arena-singletask-task4-v0"),
        ("Pendulum-v1", "Pendulum-v1"),
        ("my-robot-play", "my-robot-play"),
        (f"{HERE}/Drift-v0", f"{HERE}/Drift-v0"),
    ],
)
def test_canonical_task(name, task):
    assert tasks.canonical_task(name) == task
    assert tasks.canonical_task(task) == task


def test_default_tasks_are_those_of_ogbench():
    import gymnasium
    import ogbench  # noqa: F401

    for family in ("cube-double", "scene", "puzzle-3x3", "pointmaze-large", "antsoccer-arena"):
        with warnings.catch_warnings(action="ignore"):
            env = gymnasium.make(f"{family}-singletask-v0", disable_env_checker=True)
            env.reset(seed=0)
        expected = f"{family}-singletask-task{env.unwrapped.cur_task_id}-v0"
        assert tasks.canonical_task(f"{family}-singletask-v0") == expected


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cube-single-play-v0", "cube-single-play"),
        ("cube-single-play", "cube-single-play"),
        ("cube-single-play-singletask-task2-v0", "cube-single-play"),
        ("cube-triple-play-100m-v0", "cube-triple-play-100m"),
        ("my-data", "my-data"),
        ("Pendulum-v1", "Pendulum-v1"),
    ],
)
def test_canonical_data_name(name, data):
    assert tasks.canonical_data_name(name) == data


def test_a_task_does_not_name_a_data_set():
    with pytest.raises(DataError, match="cube-single-play or cube-single-noisy"):
        tasks.canonical_data_name("cube-single-singletask-task2-v0")


def test_tasks_of_data_are_five_known_tasks():
    found = tasks.tasks_of_data("puzzle-4x4-noisy-v0")
    assert found == [f"puzzle-4x4-singletask-task{i}-v0" for i in range(1, 6)]
    assert set(found) < set(tasks.known_tasks())
    assert tasks.tasks_of_data("my-data") == []
    assert len(tasks.known_tasks()) == 24 * 5
    assert all(tasks.canonical_task(task) == task for task in tasks.known_tasks())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "cube-singel-singletask-task2-v0",
            UnknownNameError,
            "Did you mean 'cube-single-singletask-task2-v0'",
        ),
        ("cube-single", UnknownNameError, "choose one, such as cube-single-singletask-task1-v0"),
        ("Pendulumm-v1", UnknownNameError, "Did you mean 'Pendulum-v1'"),
        ("cube-single-v0", tasks.TaskError, "goal-conditioned.*cube-single-singletask-task1-v0"),
        (
            "visual-cube-single-singletask-task2-v0",
            tasks.TaskError,
            "pixel.*'cube-single-singletask-task2-v0'",
        ),
        ("powderworld-easy-v0", tasks.TaskError, "not supported"),
        ("no_such_module:Env-v0", tasks.TaskError, "no_such_module"),
        (f"{HERE}/Pixels-v0", MismatchError, "Pixel observations"),
        (f"{HERE}/Nested-v0", tasks.TaskError, "FlattenObservation"),
        (f"{HERE}/Buttons-v0", tasks.TaskError, "action space.*Discrete"),
        ("CartPole-v1", tasks.TaskError, "action space.*Discrete"),
    ],
)
def test_unusable_tasks_get_an_instruction(name, error, message):
    with pytest.raises(error, match=message) as caught:
        tasks.make_env(name)
    assert isinstance(caught.value, SteerflowError)


def walk(env, seed: int, steps: int = 25):
    """What an episode of random actions shows, step by step."""
    observation, _ = tasks.reset_env(env, seed)
    rng = np.random.default_rng(seed)
    yield observation
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        yield np.append(observation, reward)
        if terminated or truncated:
            break


def trajectory(env, seed: int, steps: int = 25) -> np.ndarray:
    return np.concatenate(list(walk(env, seed, steps)))


@pytest.mark.parametrize(
    "task",
    [
        "cube-single-singletask-task2-v0",
        "scene-singletask-task2-v0",
        "puzzle-3x3-singletask-task4-v0",
        "pointmaze-teleport-singletask-task1-v0",
        "Pendulum-v1",
        "HalfCheetah-v5",
        f"{HERE}/Drift-v0",
    ],
)
def test_an_episode_depends_on_its_seed_alone(task):
    first = tasks.make_env(task)
    fresh = trajectory(first, 5)
    trajectory(first, 6, steps=7)
    assert np.array_equal(trajectory(first, 5), fresh)
    np.random.rand(3)  # noqa: NPY002
    second = tasks.make_env(task)
    trajectory(second, 7, steps=3)
    assert np.array_equal(trajectory(second, 5), fresh)
    assert not np.array_equal(trajectory(second, 8), fresh)


@pytest.mark.parametrize(
    "task",
    ["cube-double-singletask-task1-v0", "scene-singletask-task2-v0", "puzzle-3x3-singletask-task4-v0"],
)
def test_a_copy_is_another_environment_with_the_same_episodes(task):
    first = tasks.make_env(task)
    episodes = {seed: trajectory(first, seed, steps=9) for seed in (5, 6)}
    trajectory(first, 7, steps=3)
    second = tasks.copy_env(first)
    # In turn, as the lanes of a worker.
    turns = list(zip(walk(first, 5, 9), walk(second, 6, 9), strict=True))
    for seed, parts in zip((5, 6), zip(*turns, strict=True), strict=True):
        assert np.array_equal(np.concatenate(parts), episodes[seed])


def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.tempfile, "tempdir", str(tmp_path))
    env = tasks.make_env("pointmaze-medium-singletask-task1-v0")
    assert not list(tmp_path.iterdir())
    assert tasks.tempfile.gettempdir() == str(tmp_path)
    env.step(env.action_space.sample())


def test_what_may_hold_anything_is_not_copied():
    for task in ("pointmaze-medium-singletask-task1-v0", f"{HERE}/Drift-v0"):
        assert tasks.copy_env(tasks.make_env(task)) is None


def test_what_refuses_to_be_copied_is_built(monkeypatch):
    """As if a later OGBench kept its model where it is not looked for."""
    monkeypatch.setattr(tasks, "_model_elements", lambda _: iter(()))
    assert tasks.copy_env(tasks.make_env("cube-single-singletask-task1-v0")) is None


def test_making_and_stepping_loads_no_opengl_and_no_jax():
    code = """
import sys
from steerflow.envs.tasks import make_env, reset_env
env = make_env("cube-single-play")
reset_env(env, 1)
env.step(env.action_space.sample())
print([name for name in ("OpenGL", "jax", "mujoco.egl", "mujoco.osmesa") if name in sys.modules])
"""
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
