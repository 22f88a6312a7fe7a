"""Labels of stored states against the environments themselves: put into each state and stepped, they pay the same."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from steerflow.data import label as label_module
from steerflow.data.generate.settings import SETTINGS
from steerflow.data.generate.world import quiet
from steerflow.data.label import label
from steerflow.data.store import DataSet, StoreWriter
from steerflow.envs.tasks import make_env, tasks_of_data
from steerflow.errors import DataError, MismatchError, SteerflowError, UnknownNameError
from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig
from steerflow.learn.train import train

ROWS = 60


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERFLOW_DATA", str(tmp_path))


def build(task):
    with quiet():
        return make_env(task)


def write(path, name, env, columns):
    """A store of one episode with the given info columns; observations do not matter here."""
    source = (
        {"kind": "generated", "name": name, "settings": {"env": SETTINGS[name].env}} if name else {"kind": "import"}
    )
    actions = env.action_space.shape[0]
    with StoreWriter(path, action_low=[-1] * actions, action_high=[1] * actions, source=source) as writer:
        rows = len(columns["qpos"])
        observations = np.zeros((rows, env.observation_space.shape[0]))
        writer.append({"observations": observations, "actions": np.zeros((rows, actions)), **columns})
        return writer.commit()


def states(env, rng):
    """States around the goal, such that each sub-goal is met in about half of them and all of them in some."""
    base = env.unwrapped
    qpos = np.repeat(base.data.qpos[None], ROWS, axis=0)
    qvel = np.zeros((ROWS, base.model.nv))
    columns = {"qpos": qpos, "qvel": qvel}
    near = rng.random((ROWS, 40)) < np.linspace(0.3, 1.0, ROWS)[:, None]
    if hasattr(base, "cur_goal_xy"):
        direction = rng.normal(size=(ROWS, 2))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        qpos[:] = base.cur_goal_xy + direction * np.where(near[:, :1], 0.9, 1.1)
        return {n: c.astype(np.float32) for n, c in columns.items()}
    for cube in range(getattr(base, "_num_cubes", 0)):
        direction = rng.normal(size=(ROWS, 3))
        direction[:, 2] = np.abs(direction[:, 2])
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        target = base.data.mocap_pos[base._cube_target_mocap_ids[cube]]
        qpos[:, 14 + 7 * cube : 17 + 7 * cube] = target + direction * np.where(near[:, [cube]], 0.038, 0.042)
    if hasattr(base, "_num_buttons"):
        right = near[:, 8 : 8 + base._num_buttons]
        columns["button_states"] = np.where(right, base._target_button_states, 1 - base._target_button_states).astype(
            np.int8
        )
    if hasattr(base, "_target_drawer_pos"):
        joints = (
            ("drawer_slide", base._target_drawer_pos, -0.16, 0),
            ("window_slide", base._target_window_pos, 0, 0.2),
        )
        for k, (joint, target, low, high) in enumerate(joints):
            inside = 1 if target == low else -1
            offset = np.where(near[:, 35 + k], 0.038, 0.042) * inside
            qpos[:, base.model.joint(joint).qposadr[0]] = np.clip(target + offset, low, high)
    return {n: c if c.dtype == np.int8 else c.astype(np.float32) for n, c in columns.items()}


def paid(env, columns, row):
    """(reward, mask) of a step from the state of a row, as the environment pays them."""
    base = env.unwrapped
    buttons = [np.array(columns["button_states"][row], int)] if "button_states" in columns else []
    base.set_state(columns["qpos"][row].astype(float), columns["qvel"][row].astype(float), *buttons)
    if hasattr(base, "post_step"):
        base.pre_step()
        base.post_step()
    _, reward, terminated, _, info = base.step(np.zeros(env.action_space.shape))
    assert bool(info["success"]) == bool(terminated)
    return reward, 0.0 if terminated else 1.0


@pytest.mark.parametrize(
    ("name", "number", "goals"),
    [
        ("cube-single-play", 2, 1),
        ("cube-triple-noisy", 5, 3),
        ("scene-play", 4, 5),
        ("puzzle-3x3-play", 4, 9),
        ("pointmaze-medium-stitch", 1, 1),
        ("pointmaze-teleport-navigate", 3, 1),
    ],
)
def test_labels_are_what_the_environment_pays(tmp_path, monkeypatch, name, number, goals):
    task = tasks_of_data(name)[number - 1]
    env = build(task)
    columns = states(env, np.random.default_rng(number))
    store = write(tmp_path / "train", name, env, columns)
    monkeypatch.setattr(label_module, "_BLOCK", 17)
    label(store, f"{name}-singletask-task{number}-v0")
    assert store.tasks == (task,)
    rewards, masks = store.rewards(task)
    wanted = np.array([paid(env, columns, row) for row in range(ROWS)])
    assert np.array_equal(rewards, wanted[:, 0])
    assert np.array_equal(masks, wanted[:, 1])
    assert 0 < masks.sum() < ROWS
    assert rewards.max() == 0
    assert -goals <= rewards.min() < 0
    assert len(np.unique(rewards)) > min(goals, 3)
    assert np.array_equal(masks == 0, rewards == 0)


def test_labelling_again_needs_force_and_leaves_random_numbers_alone(tmp_path):
    env = build("cube-single-singletask-task1-v0")
    store = write(tmp_path / "train", "cube-single-play", env, states(env, np.random.default_rng(0)))
    task = "cube-single-singletask-task1-v0"
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    label(store, task)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002
    rewards, masks = (np.array(c) for c in store.rewards(task))
    store.add_task(task, rewards - 7, masks)
    label(store, task)
    assert np.array_equal(store.rewards(task)[0], rewards - 7)
    label(store, task, force=True)
    assert np.array_equal(store.rewards(task)[0], rewards)
    label(store, "cube-single-play-singletask-task2-v0")
    assert store.tasks == (task, "cube-single-singletask-task2-v0")
    assert not np.array_equal(store.rewards("cube-single-singletask-task2-v0")[0], rewards)


def test_data_in_a_folder_of_any_name_know_their_tasks(tmp_path):
    env = build("cube-single-singletask-task1-v0")
    columns = states(env, np.random.default_rng(0))
    write(tmp_path / "mine" / "train", "cube-single-play", env, columns)
    write(tmp_path / "cube-double-play-1m" / "train", None, env, columns)
    task, sizes = "cube-single-singletask-task2-v0", (8,)
    small = TrainConfig(
        data="mine", run=tmp_path / "run", tasks=(task,), batch=8, updates=5, call_updates=5, log_every=5,
        policy=FlowMatchingConfig(hidden=sizes), critic=IQLConfig(hidden=sizes),
    )  # fmt: skip
    train(small)
    assert DataSet.open("mine").train.tasks == (task,)
    with pytest.raises(SteerflowError, match=f"for mine: cube-single-singletask-task1-v0, {task}"):
        train(replace(small, tasks=(), run=tmp_path / "none"))
    # Of data that do not say what they are the folder's name is all there is.
    assert DataSet.open("cube-double-play-1m").origin == "cube-double-play-1m"


def test_data_that_do_not_fit_the_task(tmp_path):
    env = build("puzzle-3x3-singletask-task1-v0")
    columns = states(env, np.random.default_rng(0))
    store = write(tmp_path / "generated", "puzzle-3x3-play", env, columns)
    with pytest.raises(MismatchError, match=r"from puzzle-3x3-v0"):
        label(store, "puzzle-4x4-singletask-task1-v0")
    imported = write(tmp_path / "imported", None, env, columns)
    with pytest.raises(MismatchError, match=r"observations at .* has 55 dimensions"):
        label(imported, "puzzle-4x4-singletask-task1-v0")
    bare = write(tmp_path / "bare", None, env, {"qpos": columns["qpos"]})
    with pytest.raises(DataError, match="no column 'button_states'"):
        label(bare, "puzzle-3x3-singletask-task1-v0")
    with pytest.raises(UnknownNameError, match="puzzle-3x3-singletask-task1-v0"):
        label(store, "puzzle-3x3-singeltask-task1-v0")
    with pytest.raises(DataError, match="single tasks can be labelled"):
        label(store, "Pendulum-v1")
    assert store.tasks == ()
