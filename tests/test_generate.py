"""Generated data: the official settings, the same bytes however they were made, and nothing lost when interrupted."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from steerflow.data.generate import available_names, make_data, manipspace, run, workers
from steerflow.data.generate.pointmaze import free_cells, is_corridor, steps_from
from steerflow.data.generate.settings import SETTINGS, PointMaze
from steerflow.data.generate.world import GenerationError, collect, open_world, quiet
from steerflow.data.store import StoreWriter
from steerflow.errors import ArtefactError, BusyError, DataError, UnknownNameError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERFLOW_DATA", str(tmp_path))
    return tmp_path


def short(name: str, rows: int):
    return replace(SETTINGS[name], rows=rows)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


# --- what is generated ---------------------------------------------------------------------------------------------------


def test_sizes_and_noise_are_the_official_ones():
    assert len(available_names()) == 28
    size = {name: (s.episodes, s.rows) for name, s in SETTINGS.items()}
    assert size["cube-single-play"] == size["scene-noisy"] == size["pointmaze-medium-navigate"] == (1000, 1001)
    assert size["cube-triple-play"] == size["puzzle-4x5-noisy"] == (3000, 1001)
    assert size["cube-quadruple-noisy"] == size["puzzle-4x6-play"] == (5000, 1001)
    assert size["pointmaze-giant-navigate"] == (500, 2001)
    assert size["pointmaze-giant-stitch"] == size["pointmaze-teleport-stitch"] == (5000, 201)
    assert [SETTINGS[f"{n}-noisy"].random_action for n in ("cube-double", "scene", "puzzle-4x4")] == [0.1, 0.1, 0.2]
    assert all(SETTINGS[n].random_action == 0 for n in SETTINGS if n.endswith("-play"))
    assert SETTINGS["cube-triple-play"].stack == (0.05, 0.35)
    assert SETTINGS["scene-play"].stack == (0.5, 0.5)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_named_set_generates(name):
    world = open_world(short(name, 9))
    columns = collect(world, name, 0, "train", 0)
    assert all(len(column) == 9 and np.isfinite(column).all() for column in columns.values())
    assert ("button_states" in columns) == name.startswith(("scene", "puzzle"))
    assert {"qpos", "qvel"} <= columns.keys()
    moved = np.abs(np.diff(columns["observations"], axis=0)).max(axis=1)
    assert (moved > 0).all()
    actions = columns["actions"]
    assert (np.abs(actions[:-1]).max(axis=1) > 0).all()
    assert (actions >= world.action_low).all()
    assert (actions <= world.action_high).all()
    assert sum(world.widths.values()) == sum(column[0].nbytes for column in columns.values())


@pytest.mark.parametrize("name", ["cube-single-noisy", "puzzle-3x3-play", "pointmaze-medium-navigate"])
def test_the_stored_actions_replay_the_episode(name):
    """Row j's action is the one that leads from row j to row j+1, exactly as it is stored."""
    import gymnasium

    world = open_world(short(name, 121))
    resets, reset = [], world._env.reset
    world._env.reset = lambda **kwargs: resets.append(kwargs) or reset(**kwargs)
    columns = collect(world, name, 3, "train", 1)
    with quiet():
        mode = {} if "maze" in name else {"mode": "data_collection"}
        made = gymnasium.make(SETTINGS[name].env, terminate_at_goal=False, disable_env_checker=True, **mode)
        env = made.unwrapped
        for _ in range(2):  # the first reset compiles the model
            np.random.seed(resets[0]["seed"])  # noqa: NPY002
            observation = env.reset(**resets[0])[0]
    for row in range(121):
        assert np.array_equal(np.float32(observation), columns["observations"][row])
        assert np.array_equal(np.float32(env.data.qpos), columns["qpos"][row])
        assert np.array_equal(np.float32(env.data.qvel), columns["qvel"][row])
        if "puzzle" in name:
            assert np.array_equal(env._cur_button_states, columns["button_states"][row])
        observation = env.step(columns["actions"][row])[0]


def test_skipping_repeated_work_changes_nothing(monkeypatch):
    fast = collect(open_world(short("scene-noisy", 101)), "scene-noisy", 0, "train", 0)
    monkeypatch.setattr(manipspace, "skip_repeated_work", lambda env: None)
    assert equal(fast, collect(open_world(short("scene-noisy", 101)), "scene-noisy", 0, "train", 0))


@pytest.mark.parametrize(
    ("name", "episodes"),
    [("scene-noisy", 10), ("puzzle-4x4-noisy", 2), ("cube-double-play", 2), ("pointmaze-teleport-stitch", 3)],
)
def test_an_episode_does_not_depend_on_what_was_collected_before(name, episodes):
    settings = short(name, 101)
    world, other = open_world(settings), open_world(settings)
    forward = [collect(world, name, 0, "train", i) for i in range(episodes)]
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    backward = [collect(other, name, 0, "train", i) for i in reversed(range(episodes))]
    assert all(equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert not equal(forward[0], forward[1])
    assert not equal(collect(world, name, 1, "train", 0), forward[0])
    assert not equal(collect(world, name, 0, "val", 0), forward[0])


def test_the_block_of_the_scene_stays_in_reach():
    qpos = np.zeros((3, 25))
    assert manipspace.block_in_reach(qpos)
    for y, z, good in [
        (0.29, 0.1, False),
        (0.28, 0.1, True),
        (-0.31, 0.07, True),
        (-0.31, 0.05, False),
        (-0.31, 0.09, False),
    ]:
        qpos[1, 15:17] = y, z
        assert manipspace.block_in_reach(qpos) == good


def test_an_unsound_episode_is_repeated_with_other_numbers():
    class Unlucky:
        drawn: list = []  # noqa: RUF012

        def episode(self, rng):
            self.drawn.append(rng.random())
            return {"observations": np.zeros((2, 1))} if len(self.drawn) > 3 else None

    first = Unlucky()
    collect(first, "scene-play", 0, "train", 0)
    assert len(set(first.drawn)) == 4

    class Hopeless(Unlucky):
        def episode(self, rng):
            return None

    with pytest.raises(GenerationError, match="went wrong"):
        collect(Hopeless(), "scene-play", 0, "train", 0)


@pytest.mark.parametrize("size", ["medium", "large", "giant", "teleport"])
def test_ways_through_the_maze(size):
    world = open_world(short(f"pointmaze-{size}-stitch", 5))
    env, maze = world._env, world._env.maze_map
    cells = free_cells(maze)
    for start in cells[::5]:
        oracle = env.get_oracle_subgoal(env.ij_to_xy(cells[0]), env.ij_to_xy(start))[1]
        assert steps_from(maze, start) == {cell: oracle[cell] for cell in cells}
    corridors = [cell for cell in cells if is_corridor(maze, cell)]
    assert 0 < len(corridors) < len(cells)
    assert all(
        sum(maze[i + di, j + dj] == 0 for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0))) == 2 for i, j in corridors
    )


def test_stitch_goes_four_cells_and_stays_and_navigate_goes_on():
    world = open_world(SETTINGS["pointmaze-medium-stitch"])
    cell = world._env.xy_to_ij
    for index in range(5):
        qpos = collect(world, "pointmaze-medium-stitch", 0, "train", index)["qpos"]
        assert steps_from(world._env.maze_map, cell(qpos[0]))[cell(qpos[-1])] in (0, 3, 4, 5)  # noise may carry it over
        assert np.linalg.norm(qpos[-1] - world._env.cur_goal_xy) < 3
        assert np.linalg.norm(qpos[-60:] - qpos[-1], axis=1).max() < 4
    world = open_world(SETTINGS["pointmaze-medium-navigate"])
    qpos = collect(world, "pointmaze-medium-navigate", 0, "train", 0)["qpos"]
    assert len({cell(xy) for xy in qpos}) > 15


def test_teleporters_teleport():
    world = open_world(SETTINGS["pointmaze-teleport-navigate"])
    jumps = 0
    for index in range(4):
        columns = collect(world, "pointmaze-teleport-navigate", 0, "train", index)
        jumped = np.linalg.norm(np.diff(columns["qpos"], axis=0), axis=1) > 2
        jumps += jumped.sum()
        # The environment shows the entrance, the state is the exit.
        differs = (columns["observations"] != columns["qpos"]).any(axis=1)
        assert np.array_equal(differs[1:], jumped)
    assert jumps > 0


# --- how it is generated -------------------------------------------------------------------------------------------------


class FakeWorld:
    """Numbers in place of physics, to test the driver alone."""

    action_low, action_high = np.float32([-1, -2]), np.float32([1, 2])
    widths = {"observations": 12, "actions": 8}  # noqa: RUF012

    def __init__(self, settings):
        self.rows = settings.rows

    def episode(self, rng):
        return {
            "observations": rng.random((self.rows, 3), np.float32),
            "actions": rng.random((self.rows, 2), np.float32),
        }


FAKE = PointMaze("fake-v0", "navigate", episodes=20, rows=11)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(workers, "open_world", FakeWorld)
    monkeypatch.setattr(run, "_PART_ROWS", 33)  # three episodes


def make_fake(target, episodes=10, val=2, seed=0):
    return run.generate("fake", FAKE, {"train": episodes, "val": val}, seed=seed, workers=1, target=target)


def test_the_store_holds_the_episodes_in_order(root, fake):
    data = make_fake(root / "fake")
    assert (data.name, data.train.episodes, data.val.episodes, data.train.rows) == ("fake", 10, 2, 110)
    for store, split in ((data.train, "train"), (data.val, "val")):
        for index, start in enumerate(store.episode_starts):
            episode = collect(FakeWorld(FAKE), "fake", 0, split, index)
            assert np.array_equal(store.observations[start : start + 11], episode["observations"])
            assert np.array_equal(store.actions[start : start + 11], episode["actions"])
        source = store.meta["source"]
        assert (source["name"], source["seed"], source["split"], source["settings"]["rows"]) == ("fake", 0, split, 11)
        assert {"ogbench", "mujoco"} <= source["versions"].keys()
        assert store.meta["action_high"] == [1, 2]
    assert [p.name for p in root.iterdir() if p.suffix != ".lock"] == ["fake"]
    assert make_fake(root / "small", episodes=4, val=0).val is None


@pytest.mark.parametrize("stop", range(1, 13))
def test_interrupted_equals_uninterrupted(root, fake, monkeypatch, stop):
    whole = files(make_fake(root / "whole").train.path.parent)
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return collect(*args)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "collect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_fake(root / "fake")
    assert not (root / "fake" / "train").exists()
    repeated = []
    monkeypatch.setattr(workers, "collect", lambda *args: repeated.append(args) or collect(*args))
    assert files(make_fake(root / "fake").train.path.parent) == whole
    assert len(repeated) + stop - 1 - 12 < 3  # no more than a part is lost


def test_interrupted_while_the_stores_are_written(root, fake, monkeypatch):
    whole = files(make_fake(root / "whole").train.path.parent)
    for split in ("val", "train"):
        commit = StoreWriter.commit

        def stop(self, split=split, commit=commit):
            if self.path.name == split:
                raise KeyboardInterrupt
            return commit(self)

        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "commit", stop)
            with pytest.raises(KeyboardInterrupt):
                make_fake(root / "fake")
        with pytest.raises(UnknownNameError):
            run.DataSet.open("fake")
    (root / "fake" / ".train.123.tmp").mkdir()  # of a process killed at this point
    monkeypatch.setattr(workers, "open_world", None)  # nothing is left to generate
    assert files(make_fake(root / "fake").train.path.parent) == whole


def test_a_larger_set_begins_with_the_smaller_one(root, fake):
    small, large = make_fake(root / "small", 4, 1), make_fake(root / "large", 9, 3)
    assert np.array_equal(large.train.observations[: small.train.rows], small.train.observations)
    assert not np.array_equal(make_fake(root / "other", 4, 1, seed=1).train.observations, small.train.observations)


def test_a_finished_set_is_returned_and_another_one_refused(root, fake, monkeypatch):
    make_fake(root / "fake")
    monkeypatch.setattr(workers, "open_world", None)
    assert make_fake(root / "fake").train.episodes == 10
    with pytest.raises(DataError, match=r"seed 0 there, 1 asked for.*--out fake-2"):
        make_fake(root / "fake", seed=1)
    with pytest.raises(DataError, match=r"train episodes 10 there, 11 asked for"):
        make_fake(root / "fake", episodes=11)
    with pytest.raises(DataError, match=r"val episodes 2 there, 0 asked for"):
        make_fake(root / "fake", val=0)
    with pytest.raises(DataError, match=r"rows 11 there, 12 asked for"):
        run.generate("fake", replace(FAKE, rows=12), {"train": 10, "val": 2}, seed=0, workers=1, target=root / "fake")
    with StoreWriter(root / "own" / "train", action_low=[-1], action_high=[1], source={"kind": "import"}) as writer:
        writer.append({"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1))})
        writer.commit()
    with pytest.raises(DataError, match=r"kind 'import' there"):
        make_fake(root / "own", val=0)


def test_two_processes_do_not_make_one_set(root, fake):
    with FileLock(root / ".fake.lock"), pytest.raises(BusyError, match="Another process"):
        make_fake(root / "fake")
    assert make_fake(root / "fake").train.episodes == 10


def test_full_disk(root, fake, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
        with pytest.raises(GenerationError, match=r"needs .* GB of free disk"):
            make_fake(root / "fake")
    written = []

    def full(path, data):
        if len(written) == 2:
            raise ArtefactError(f"Could not write {path}: No space left on device.")
        written.append(path)
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "write_bytes", full)
        with pytest.raises(ArtefactError, match="No space left"):
            make_fake(root / "fake")
    assert all(path.exists() for path in written)
    assert files(make_fake(root / "fake").train.path.parent) == files(make_fake(root / "whole").train.path.parent)


def test_a_damaged_part_is_made_again(root, fake, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, "_assemble", lambda *args: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            make_fake(root / "fake")
    part = next((root / ".fake.parts").rglob("train-*.npz"))
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(ArtefactError, match="the same command goes on"):
        make_fake(root / "fake")
    assert files(make_fake(root / "fake").train.path.parent) == files(make_fake(root / "whole").train.path.parent)


def test_names_and_sizes(root, fake, monkeypatch):
    data = make_data("pointmaze-medium-stitch-v0", transitions=401, workers=1)
    assert (data.train.episodes, data.val.episodes, data.name) == (3, 1, "pointmaze-medium-stitch")
    data = make_data(
        "pointmaze-medium-stitch-singletask-task2-v0", episodes=30, workers=1, out="mine", val_fraction=0.2
    )
    assert (data.train.path, data.val.episodes) == (root / "mine" / "train", 6)
    assert make_data("pointmaze-medium-stitch", episodes=1, workers=1, out=root / "a" / "b", val_fraction=0).val is None
    with pytest.raises(UnknownNameError, match="cube-single-play"):
        make_data("cube-singel-play")
    for bad in ({"episodes": 1, "transitions": 1}, {"episodes": 0}, {"val_fraction": 2}, {"seed": -1}, {"workers": 0}):
        with pytest.raises(DataError):
            make_data("cube-single-play", **{"out": "bad", **bad})


def test_the_callers_random_numbers_are_left_alone(root):
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    make_data("pointmaze-medium-stitch", episodes=1, workers=1)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002


# --- processes -----------------------------------------------------------------------------------------------------------

CUBE = short("cube-single-play", 101)


def test_any_number_of_workers_makes_the_same_bytes(root, monkeypatch):
    monkeypatch.setattr(run, "_PART_ROWS", 202)
    made = [
        run.generate("cube-single-play", CUBE, {"train": 5, "val": 1}, seed=0, workers=n, target=root / str(n))
        for n in (1, 2)
    ]
    assert files(made[0].train.path.parent) == files(made[1].train.path.parent)
    assert active_children() == []
    assert sys.modules["__main__"].__name__ != "steerflow.data.generate.workers"


def test_a_killed_worker_is_reported(root):
    (root / "parts").mkdir()
    plan = workers.Plan("cube-single-play", CUBE, 0, root / "parts")
    events = workers.fill_parts(plan, [workers.Part("train", 0, 50), workers.Part("train", 50, 100)], 2)
    assert next(events)[0] == "facts"
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(GenerationError, match="ended without a word"):
        list(events)
    assert active_children() == []


def test_a_worker_that_fails_tells_why(root):
    plan = workers.Plan("x", replace(CUBE, env="cube-none-v0"), 0, root)
    with pytest.raises(GenerationError, match="cube-none"):
        list(workers.fill_parts(plan, [workers.Part("train", i, i + 1) for i in range(2)], 2))
    plan = workers.Plan("cube-single-play", CUBE, 0, root / "missing")
    with pytest.raises(ArtefactError, match=r"Could not write .* the same command goes on"):
        list(workers.fill_parts(plan, [workers.Part("train", i, i + 1) for i in range(2)], 2))


SCRIPT = """
    import sys
    from pathlib import Path
    from dataclasses import replace
    from steerflow.data.generate import run
    from steerflow.data.generate.settings import SETTINGS

    run._PART_ROWS = 202
    settings = replace(SETTINGS["cube-single-play"], rows=101)
    run.generate("cube-single-play", settings, {"train": 20, "val": 2}, seed=0, workers=2, target=Path(sys.argv[1]))
    assert "jax" not in sys.modules and "mujoco" not in sys.modules
"""


def test_killed_and_started_again(root, tmp_path):
    """kill -9 of the parent: the workers end, and the next call ends with the same bytes as one never killed.

    The script has no main guard: workers must not run it once more.
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def start(target):
        return subprocess.Popen([sys.executable, str(script), str(target)], stderr=subprocess.PIPE, text=True)

    process = start(root / "killed")
    while len(list((root / ".killed.parts").rglob("*.npz"))) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    orphans = children.read_text().split() if children.exists() else []
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while any(_runs(pid) for pid in orphans):
        assert time.monotonic() < end, "workers outlive the process that started them"
        time.sleep(0.05)
    assert not (root / "killed" / "train").exists()
    process = start(root / "killed")
    assert process.wait(60) == 0, process.stderr.read()
    process.communicate()
    whole = run.generate("cube-single-play", CUBE, {"train": 20, "val": 2}, seed=0, workers=1, target=root / "whole")
    assert files(root / "killed") == files(whole.train.path.parent)
    assert not (root / ".killed.parts").exists()


def _runs(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_workers_do_not_import_jax():
    code = """
    import sys
    from dataclasses import replace
    from steerflow.data.generate.settings import SETTINGS
    from steerflow.data.generate.workers import collect, open_world
    for name in ("cube-single-play", "pointmaze-medium-stitch"):
        collect(open_world(replace(SETTINGS[name], rows=5)), name, 0, "train", 0)
    assert "mujoco" in sys.modules and "jax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
