"""Each mistake that the check knows, put into clean data, is found; clean data pass."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steerflow.data.check import Finding, check_data, summarise
from steerflow.data.checks import columns as columns_module
from steerflow.data.checks import finding as finding_module
from steerflow.data.checks import rewards as rewards_module
from steerflow.data.convert import import_data, parse_mapping
from steerflow.data.listing import list_data
from steerflow.data.store import DataSet, Store, StoreWriter

SHARED = Path(os.environ.get("STEERFLOW_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real recordings at {SHARED} (STEERFLOW_SHARED_DATA)")
TASK = "reach"


def clean_columns(episodes=12, steps=100, seed=0) -> list[dict[str, np.ndarray]]:
    """A damped point pushed by its action: position (2), velocity (2); the reward is minus the squared distance."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        state, states, actions = np.append(rng.normal(size=2) * 2, [0.0, 0.0]), [], []
        push = np.zeros(2)
        for _ in range(steps + 1):
            push = np.clip(0.5 * push + rng.normal(size=2) * 0.4, -1, 1)
            states.append(state)
            actions.append(push)
            velocity = 0.8 * state[2:] + 0.2 * push
            state = np.append(state[:2] + 0.1 * velocity, velocity)
        states, actions = np.array(states, np.float32), np.array(actions, np.float32)
        rewards = -0.02 * (states[:, :2] ** 2).sum(axis=1) - 0.5 * (actions**2).sum(axis=1)
        masks = np.ones(len(states))
        made.append({"observations": states, "actions": actions, "rewards": rewards, "masks": masks})
    return made


def write(path: Path, episodes, low=-1.0, high=1.0) -> Store:
    dims = episodes[0]["actions"].shape[1]
    with StoreWriter(path, action_low=np.full(dims, low), action_high=np.full(dims, high), source={}) as writer:
        for episode in episodes:
            writer.append({n: c for n, c in episode.items() if n not in ("rewards", "masks")})
        store = writer.commit()
    rewards, masks = (np.concatenate([e[n] for e in episodes]) for n in ("rewards", "masks"))
    store.add_task(TASK, rewards, masks)
    return store


def serious(findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.severity != "note"]


def test_clean_data_pass(tmp_path, monkeypatch):
    write(tmp_path / "train", clean_columns())
    write(tmp_path / "val", clean_columns(3, seed=1))
    whole = check_data(tmp_path)
    assert serious(whole) == []
    # Blocks change nothing, and a sample of stretches is not a source of jumps.
    for module in (columns_module, rewards_module):
        monkeypatch.setattr(module, "BLOCK_ROWS", 37)
    assert check_data(tmp_path) == whole
    monkeypatch.setattr(finding_module.sample_blocks, "__defaults__", (400,))
    assert serious(check_data(tmp_path)) == []


def each(change: Callable[[dict[str, np.ndarray]], None]):
    def apply(episodes):
        for episode in episodes:
            change(episode)

    return apply


def first(change: Callable[[dict[str, np.ndarray]], None]):
    return lambda episodes: change(episodes[1])


def set_at(column, where, value):
    def change(episode):
        episode[column][where] = value

    return change


def add_column(make):
    def change(episode):
        extra = np.asarray(make(len(episode["observations"])), np.float32)
        episode["observations"] = np.concatenate([episode["observations"], extra[:, None]], axis=1)

    return change


def merge(episodes):
    """Every second end of an episode is lost."""
    joined = [
        {n: np.concatenate([one[n], other[n]]) for n in one}
        for one, other in zip(episodes[::2], episodes[1::2], strict=True)
    ]
    episodes[:] = joined


def cut(episodes):
    """Episodes cut in pieces of ten steps."""
    pieces = [{n: c[k : k + 11] for n, c in e.items()} for e in episodes for k in range(0, 90, 10)]
    episodes[:] = pieces


def cut_short(episodes):
    episodes[:] = [{n: c[k : k + 3] for n, c in e.items()} for e in episodes for k in range(0, 90, 3)]


def roll(column, shift):
    def change(episode):
        episode[column] = np.roll(episode[column], shift, axis=0)

    return each(change)


def random_walk_counter(length):
    return np.arange(length) * 1e3


MISTAKES = {
    "nan": (first(set_at("observations", (7, 2), np.nan)), "error", "observations", "row 108, dimension 2"),
    "infinite action": (first(set_at("actions", (9, 1), np.inf)), "error", "actions", "row 110, dimension 1"),
    "constant observation": (each(add_column(np.ones)), "warning", "observations", "Constant: dimension 4"),
    "counter": (each(add_column(random_walk_counter)), "warning", "observations", r"Values up to 1e\+05: dimension 4"),
    "tiny": (
        each(add_column(lambda n: np.sin(np.arange(n)) * 1e-5)),
        "note",
        "observations",
        "less than 1e-3: dimension 4",
    ),
    "missed ends": (merge, "warning", "observations", "jumps at [3-6] of"),
    "needless ends": (cut, "note", "episode_ends", "begin where the one before ends"),
    "tiny episodes": (cut_short, "warning", "episode_ends", "fewer than 5 steps"),
    "late actions": (roll("actions", 1), "warning", "actions", "row after .* one row late"),
    "early actions": (roll("actions", -1), "warning", "actions", "row before .* one row early"),
    "outside": (
        each(set_at("actions", (slice(0, 20), 0), 1.7)),
        "warning",
        "actions",
        "Outside their bounds: dimension 0 ",
    ),
    "wrong units": (each(lambda e: e.update(actions=e["actions"] * 90)), "error", "actions", "Outside their bounds"),
    "narrow": (each(lambda e: e.update(actions=e["actions"] / 200)), "warning", "actions", "less than 2 %"),
    "saturated": (
        each(lambda e: e.update(actions=np.sign(e["actions"]))),
        "warning",
        "actions",
        "At a bound in up to 100%",
    ),
    "constant action": (each(set_at("actions", (slice(None), 1), 0.25)), "warning", "actions", "Constant: dimension 1"),
    "nan reward": (first(set_at("rewards", 5, np.nan)), "error", f"tasks/{TASK}", "reward of row 106 is nan"),
    "odd mask": (first(set_at("masks", 5, 0.5)), "error", f"tasks/{TASK}", "row 106 holds 0.5"),
    "no reward": (each(set_at("rewards", slice(None), 0)), "warning", f"tasks/{TASK}", "All rewards are zero"),
    "same reward": (each(set_at("rewards", slice(None), -1)), "warning", f"tasks/{TASK}", "All rewards are -1"),
    "large reward": (
        each(lambda e: e.update(rewards=e["rewards"] * 1e4)),
        "warning",
        f"tasks/{TASK}",
        "Rewards lie between",
    ),
    "late rewards": (roll("rewards", 1), "warning", f"tasks/{TASK}", "row after .* one row late"),
    "early rewards": (roll("rewards", -1), "warning", f"tasks/{TASK}", "row before .* one row early"),
    "task goes on": (
        first(set_at("masks", 50, 0)),
        "warning",
        f"tasks/{TASK}",
        "In 1 of 12 episodes .* first at row 152",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_found(name, tmp_path):
    break_it, severity, column, message = MISTAKES[name]
    episodes = clean_columns()
    break_it(episodes)
    store = write(tmp_path / "train", episodes)
    findings = check_data(store)
    hits = [f for f in findings if f.column == column and re.search(message, f.message)]
    assert [f.severity for f in hits] == [severity], "\n".join(str(f) for f in findings)
    severities = ["error", "warning", "note"]
    assert [f.severity for f in findings] == sorted((f.severity for f in findings), key=severities.index)


def test_one_long_recording_asks_for_its_ends(tmp_path):
    episodes = clean_columns(60)
    whole = {name: np.concatenate([e[name] for e in episodes]) for name in episodes[0]}
    findings = check_data(write(tmp_path / "train", [whole]))
    assert any("one episode" in f.message for f in serious(findings))
    assert any("They are 101 rows apart" in f.message for f in serious(findings))


def test_damaged_files_are_found(tmp_path):
    store = write(tmp_path / "train", clean_columns())
    for file in (store.path / "actions.npy", store.path / "tasks" / TASK / "masks.npy"):
        data = bytearray(file.read_bytes())
        data[-4:] = np.float32(1).tobytes() if data[-4:] != np.float32(1).tobytes() else np.float32(0).tobytes()
        file.write_bytes(bytes(data))
    found = [f for f in check_data(tmp_path) if "checksum" in f.message]
    assert sorted(f.column for f in found) == ["actions", f"tasks/{TASK}"]
    assert {f.severity for f in found} == {"error"}
    assert not [f for f in check_data(tmp_path, verify=False) if "checksum" in f.message]
    (store.path / "tasks" / TASK / "rewards.npy").unlink()
    assert any(f.column == f"tasks/{TASK}" and f.severity == "error" for f in check_data(tmp_path))


def test_splits_must_fit_and_not_overlap(tmp_path):
    episodes = clean_columns()
    write(tmp_path / "train", episodes)
    assert [f.column for f in check_data(tmp_path) if f.split == "val"] == ["val"]
    write(tmp_path / "val", [*clean_columns(2, seed=5), episodes[4]])
    found = serious(check_data(tmp_path))
    assert [(f.severity, f.split) for f in found] == [("error", "val")]
    assert "4 of train is 2 of val" in found[0].message
    # The same beginning is no copy.
    other = {name: column.copy() for name, column in episodes[4].items()}
    other["observations"][60:] += 0.001
    write(tmp_path / "val", [*clean_columns(2, seed=5), other])
    assert not any("both splits" in f.message for f in check_data(tmp_path))

    shutil.rmtree(tmp_path / "val")
    wider = clean_columns(3, seed=5)
    each(add_column(lambda n: np.sin(np.arange(n))))(wider)
    val = write(tmp_path / "val", wider, low=-2)
    shutil.rmtree(val.path / "tasks")
    found = {f.column: f for f in serious(check_data(tmp_path)) if f.split == "val"}
    assert "5 dimensions, train 4" in found["observations"].message
    assert "bounds" in found["actions"].message
    assert found[f"tasks/{TASK}"].severity == "warning"


def test_summary(tmp_path):
    episodes = clean_columns(4)
    episodes[2]["masks"][-3:] = 0
    store = write(tmp_path / "train", episodes)
    facts = summarise(store)["train"]
    assert (facts["rows"], facts["transitions"], facts["episodes"]) == (404, 400, 4)
    assert facts["length"] == {"min": 100, "median": 100.0, "max": 100}
    assert (facts["observation_dim"], facts["action_dim"]) == (4, 2)
    assert facts["tasks"][TASK]["successes"] == 1
    assert facts["tasks"][TASK]["success_rows"] == pytest.approx(2 / 400)
    assert facts["tasks"][TASK]["success_episodes"] == pytest.approx(1 / 4)
    json.dumps(summarise(tmp_path))


def test_list_shows_what_is_there_and_what_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERFLOW_DATA", str(tmp_path / "data"))
    assert list_data() == []
    write(tmp_path / "data" / "good" / "train", clean_columns())
    write(tmp_path / "data" / "good" / "val", clean_columns(2, seed=1))
    short = write(tmp_path / "data" / "short" / "train", clean_columns())
    column = short.path / "observations.npy"
    column.write_bytes(column.read_bytes()[:-100])
    lost = write(tmp_path / "data" / "lost" / "train", clean_columns())
    (lost.path / "tasks" / TASK / "rewards.npy").unlink()
    (tmp_path / "data" / "empty").mkdir()
    (tmp_path / "data" / ".downloads").mkdir()
    found = {entry.name: entry for entry in list_data()}
    assert list(found) == ["empty", "good", "lost", "short"]
    good = found["good"]
    assert (good.transitions, good.episodes, good.val_episodes, good.tasks) == (1200, 12, 2, (TASK,))
    assert good.problem is None
    assert good.bytes > 1212 * 24
    assert "truncated" in (found["short"].problem or "")
    assert "missing" in (found["lost"].problem or "")
    assert "meta.json" in (found["empty"].problem or "")


@pytest.fixture(scope="module")
def maze(tmp_path_factory) -> DataSet:
    from steerflow.data.generate import make_data
    from steerflow.data.label import label

    folder = tmp_path_factory.mktemp("made") / "pointmaze-medium-navigate"
    data = make_data("pointmaze-medium-navigate", episodes=4, workers=1, val_fraction=0, out=folder)
    for number in range(1, 6):
        label(data.train, f"pointmaze-medium-singletask-task{number}-v0")
    return data


def test_ogbench_rewards_are_recomputed(maze):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the one that environments draw from)
    store = Store.open(maze.train.path)
    solved = [task for task in store.tasks if store.rewards(task)[1].min() == 0]
    assert solved
    assert not [f for f in check_data(store) if f.severity == "error"]
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    task = solved[0]
    rewards, masks = (np.array(c) for c in store.rewards(task))
    try:
        for shift, message in ((1, "one row earlier"), (-1, "one row later")):
            store.add_task(task, np.roll(rewards, shift), np.roll(masks, shift))
            errors = [f for f in check_data(store) if f.severity == "error"]
            assert [message in f.message for f in errors] == [True], errors
        store.add_task(task, rewards, np.ones_like(masks))
        errors = [f for f in check_data(store) if f.severity == "error"]
        assert "masks are not those" in errors[0].message
    finally:
        store.add_task(task, rewards, masks)


@needs_shared
def test_real_pusht(tmp_path):
    mapping = parse_mapping(["observations=state", "actions=action"])
    source = SHARED / "pusht_human_lowdim.npz"
    bounds = {"action_low": 0, "action_high": 512}
    assert serious(check_data(import_data(source, name="p", mapping=mapping, out=tmp_path / "p", **bounds))) == []
    with np.load(source) as file:
        columns = {"state": file["state"], "action": file["action"], "episode_ends": file["episode_ends"][1::2]}
    np.savez(tmp_path / "merged.npz", **columns)
    data = import_data(tmp_path / "merged.npz", name="m", mapping=mapping, out=tmp_path / "m", **bounds)
    assert any("state jumps" in f.message for f in serious(check_data(data)))


@needs_shared
def test_real_neorl2_and_g1(tmp_path):
    pairs = (
        "observations=obs actions=action next_observations=next_obs rewards=reward terminals=done timeouts=truncated"
    )
    mapping = parse_mapping(pairs.split(" "))
    source, val = SHARED / "neorl2_dmsd_high_train.npz", SHARED / "neorl2_dmsd_high_val.npz"
    data = import_data(source, name="d", mapping=mapping, val=val, out=tmp_path / "d")
    assert serious(check_data(data)) == []
    with np.load(source) as file:
        columns = {name: file[name] for name in file.files}
    columns["action"] = np.roll(columns["action"], 1, axis=0)
    np.savez(tmp_path / "late.npz", **columns)
    late = import_data(tmp_path / "late.npz", name="l", mapping=mapping, out=tmp_path / "l")
    assert any("one row late" in f.message for f in serious(check_data(late)))
    robot = import_data(SHARED / "unitree_g1_lerobot_v21", name="g", out=tmp_path / "g")
    assert serious(check_data(robot)) == []
