"""The same episodes, written in every format that can be imported, must come back the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerflow.data.convert import FORMATS, arrays, import_data, lerobot, npz, parse_mapping
from steerflow.data.convert.bounds import action_bounds
from steerflow.data.store import DataSet, Store
from steerflow.errors import ArtefactError, DataError, SteerflowError, UnknownNameError

SHARED = Path(os.environ.get("STEERFLOW_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real recordings at {SHARED} (STEERFLOW_SHARED_DATA)")


@dataclass
class Source:
    """One true episode: steps + 1 states, and what happened in each step."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminal: bool

    @property
    def steps(self) -> int:
        return len(self.actions)


def make_episodes(lengths, seed=0, terminals=None) -> list[Source]:
    rng = np.random.default_rng(seed)
    made = []
    for number, steps in enumerate(lengths):
        made.append(
            Source(
                rng.normal(size=(steps + 1, 3)).astype(np.float32),
                rng.uniform(-0.9, 0.9, (steps, 2)).astype(np.float32),
                rng.normal(size=steps).astype(np.float32),
                bool(terminals[number]) if terminals is not None else number % 2 == 0,
            )
        )
    return made


def cat(parts):
    return np.concatenate(parts)


def last_only(steps: int, value: bool = True) -> np.ndarray:
    flags = np.zeros(steps, bool)
    flags[-1] = value
    return flags


def write_ogbench(folder: Path, episodes: list[Source]):
    # The last action is a placeholder; official files hold NaN or leftovers there.
    path = folder / "toy-play-v0.npz"
    np.savez_compressed(
        path,
        observations=cat([e.states for e in episodes]),
        actions=cat([np.append(e.actions, [[np.nan, 7]], 0).astype(np.float32) for e in episodes]),
        terminals=cat([last_only(e.steps + 1) for e in episodes]).astype(np.float32),
        qpos=cat([e.states[:, :2].astype(np.float64) * 2 for e in episodes]),
    )
    return path, {}


def flat(episodes: list[Source], next_observations: bool) -> dict[str, np.ndarray]:
    columns = {
        "observations": cat([e.states[:-1] for e in episodes]),
        "actions": cat([e.actions for e in episodes]),
        "rewards": cat([e.rewards for e in episodes]),
        "terminals": cat([last_only(e.steps, e.terminal) for e in episodes]),
        "timeouts": cat([last_only(e.steps, not e.terminal) for e in episodes]),
    }
    if next_observations:
        columns["next_observations"] = cat([e.states[1:] for e in episodes])
    return columns


def write_hdf5(folder: Path, episodes: list[Source]):
    import h5py

    path = folder / "flat.hdf5"
    with h5py.File(path, "w") as file:
        for name, column in flat(episodes, True).items():
            file[name] = column
        file["infos/qpos"] = np.zeros(3)
    return path, {}


def write_npz(folder: Path, episodes: list[Source]):
    columns = flat(episodes, True)
    path = folder / "plain.npz"
    np.savez(
        path,
        agent=columns["observations"][:, :1],
        block=columns["observations"][:, 1:].reshape(-1, 1, 2),
        nxt=columns["next_observations"],
        act=np.asfortranarray(columns["actions"]),
        reward=columns["rewards"][:, None],
        done=columns["terminals"].astype(np.float32),
        ends=np.cumsum([e.steps for e in episodes]),
    )
    names = "observations=agent,block actions=act next_observations=nxt rewards=reward terminals=done episode_ends=ends"
    return path, {"mapping": parse_mapping(names.split())}


def write_short_npz(folder: Path, episodes: list[Source]):
    path = folder / "short.npz"
    index = cat([np.full(e.steps, 7 * number) for number, e in enumerate(episodes)])
    columns = {k: v for k, v in flat(episodes, False).items() if k not in ("timeouts", "terminals")}
    np.savez(path, **columns, episode=index)
    return path, {"mapping": {"episode_index": "episode"}}


def create_minari(root: Path, name: str, buffers, observation_space, action_space) -> None:
    """A Minari data set under ``root``; Minari warns about everything that is not said about a data set."""
    minari = pytest.importorskip("minari")
    said = {key: "toy" for key in ("author", "author_email", "code_permalink", "algorithm_name", "description")}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        warnings.simplefilter("ignore", UserWarning)
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=observation_space, action_space=action_space, **said
        )


def write_minari(folder: Path, episodes: list[Source]):
    pytest.importorskip("minari")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=e.states,
            actions=e.actions,
            rewards=e.rewards.astype(np.float64),
            terminations=last_only(e.steps, e.terminal),
            truncations=last_only(e.steps, not e.terminal),
        )
        for e in episodes
    ]
    create_minari(folder, "toy/box-v0", buffers, Box(-np.inf, np.inf, (3,)), Box(-2, 2, (2,)))
    return folder / "toy" / "box-v0", {}


def lerobot_table(episodes: list[Source], first: int):
    import pyarrow as pa

    rows = [(number, e) for number, e in enumerate(episodes, first)]
    states = [row.tolist() for _, e in rows for row in e.states[:-1]]
    return pa.table(
        {
            "observation.state": pa.array(states, pa.list_(pa.float32())),
            "action": pa.array([row.tolist() for _, e in rows for row in e.actions], pa.list_(pa.float32(), 2)),
            "next.reward": cat([e.rewards for _, e in rows]),
            "next.done": cat([last_only(e.steps) for _, e in rows]),
            "next.success": cat([last_only(e.steps, e.terminal) for _, e in rows]),
            "episode_index": cat([np.full(e.steps, number) for number, e in rows]),
            "frame_index": cat([np.arange(e.steps) for _, e in rows]),
        }
    )


def write_lerobot_2(folder: Path, episodes: list[Source]):
    import pyarrow.parquet as pq

    (folder / "data" / "chunk-000").mkdir(parents=True)
    (folder / "meta").mkdir()
    features = {"observation.images.top": {"dtype": "video"}, "action": {"dtype": "float32"}}
    (folder / "meta" / "info.json").write_text(
        json.dumps({"codebase_version": "v2.1", "fps": 30, "features": features})
    )
    for number, episode in enumerate(episodes):
        path = folder / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
        pq.write_table(lerobot_table([episode], number), path)
    return folder, {}


def write_lerobot_3(folder: Path, episodes: list[Source]):
    import pyarrow.parquet as pq

    (folder / "data" / "chunk-000").mkdir(parents=True)
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0", "fps": 30, "features": {}}))
    pq.write_table(lerobot_table(episodes, 0), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    half = max(1, len(episodes) // 2)
    for number, part in enumerate((episodes[:half], episodes[half:])):
        if part:
            path = folder / "data" / "chunk-000" / f"file-{number:03d}.parquet"
            pq.write_table(lerobot_table(part, number * half), path)
    return folder, {}


@dataclass
class Layout:
    write: Callable
    format: str
    rewards: bool = True
    terminals: bool = True
    # Whether the state after the last step is in the file.
    final_state: bool = True


LAYOUTS = {
    "ogbench": Layout(write_ogbench, "ogbench", rewards=False, terminals=False),
    "hdf5": Layout(write_hdf5, "arrays"),
    "npz": Layout(write_npz, "arrays"),
    "npz without next observations": Layout(write_short_npz, "arrays", terminals=False, final_state=False),
    "minari": Layout(write_minari, "minari"),
    "lerobot v2.1": Layout(write_lerobot_2, "lerobot", final_state=False),
    "lerobot v3": Layout(write_lerobot_3, "lerobot", final_state=False),
}


def expected(layout: Layout, episode: Source):
    """(states, actions, rewards, masks) that the store must hold, in the slow and obvious way."""
    states, actions, rewards = list(episode.states), list(episode.actions), list(episode.rewards)
    masks = [1.0] * episode.steps
    if layout.terminals and episode.terminal:
        masks[-1] = 0.0
    if not layout.final_state:
        if masks[-1] == 0:
            states[-1] = states[-2]
        else:
            states, actions, rewards, masks = states[:-1], actions[:-1], rewards[:-1], masks[:-1]
    if not actions:
        return None
    actions.append(np.zeros(2))
    return np.array(states), np.array(actions), np.array([*rewards, 0]), np.array([*masks, masks[-1]])


def episodes_of(store: Store, task: str | None):
    rewards, masks = store.rewards(task) if task else (None, None)
    for begin, end in zip(store.episode_starts, store.episode_ends, strict=True):
        part = slice(begin, end)
        yield (
            store.observations[part],
            store.actions[part],
            *((rewards[part], masks[part]) if rewards is not None and masks is not None else (None, None)),
        )


def require_same(data: DataSet, layout: Layout, episodes: list[Source]) -> None:
    wanted = [e for e in (expected(layout, episode) for episode in episodes) if e is not None]
    found = list(episodes_of(data.train, "toy" if layout.rewards else None))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for column, want in zip(one, other, strict=True):
            if column is not None:
                np.testing.assert_allclose(column, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_format_gives_the_same_episodes(name, tmp_path, monkeypatch):
    layout = LAYOUTS[name]
    for module in (npz, arrays, lerobot):
        # Blocks shorter than an episode, so that episodes are put together from several.
        monkeypatch.setattr(module, "BLOCK_ROWS", 4)
    episodes = make_episodes([3, 9, 1, 5, 4, 12])
    (tmp_path / "source").mkdir()
    path, options = layout.write(tmp_path / "source", episodes)
    data = import_data(path, name="toy", out=tmp_path / "toy", val_fraction=0, **options)
    assert data.val is None
    require_same(data, layout, episodes)
    assert data.train.tasks == (("toy",) if layout.rewards else ())
    assert data.train.meta["source"]["request"]["format"] == layout.format
    assert data.train.verify() == []
    assert layout.format in FORMATS


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=2, max_size=8),
    block=st.integers(1, 9),
    seed=st.integers(0, 99),
    name=st.sampled_from(["ogbench", "hdf5", "npz without next observations"]),
    terminals=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_blocks_and_episodes_may_meet_anywhere(lengths, block, seed, name, terminals, tmp_path_factory):
    layout, folder = LAYOUTS[name], tmp_path_factory.mktemp("any")
    episodes = make_episodes(lengths, seed, terminals)
    path, options = layout.write(folder, episodes)
    with pytest.MonkeyPatch.context() as patch:
        for module in (npz, arrays):
            patch.setattr(module, "BLOCK_ROWS", block)
        if not any(expected(layout, episode) for episode in episodes):
            with pytest.raises(DataError, match="no episode"):
                import_data(path, name="toy", out=folder / "toy", val_fraction=0, **options)
            return
        data = import_data(path, name="toy", out=folder / "toy", val_fraction=0, **options)
    require_same(data, layout, episodes)


def test_slices_stream_and_an_episode_may_go_on_in_the_next(tmp_path, monkeypatch):
    episodes = make_episodes([1000] * 120)
    whole, _ = write_ogbench(tmp_path, episodes)
    single = import_data(whole, name="single", out=tmp_path / "single", val_fraction=0)
    folder = tmp_path / "toy-play-100m-v0"
    folder.mkdir()
    with np.load(whole) as file:
        columns = {name: file[name] for name in file.files}
    rows = len(columns["terminals"])
    # No slice but the last ends where an episode does.
    bounds = [0, rows // 4 + 7, rows // 2 + 7, 3 * rows // 4 + 7, rows]
    for number in range(4):
        part = {n: c[bounds[number] : bounds[number + 1]] for n, c in columns.items()}
        np.savez_compressed(folder / f"toy-play-v0-{number:03d}.npz", **part)
    val = {n: c[:1001] for n, c in columns.items()}
    np.savez_compressed(folder / "toy-play-v0-000-val.npz", **val)
    del columns, val
    monkeypatch.setattr(npz, "BLOCK_ROWS", 2048)
    tracemalloc.start()
    sliced = import_data(folder, name="sliced", out=tmp_path / "sliced")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sliced.train.fingerprint == single.train.fingerprint
    assert sliced.val is not None
    assert sliced.val.episodes == 1
    assert sliced.train.action_bounds[0].tolist() == [-1, -1]
    # Less than a slice is ever in memory, and far less than the data set.
    total = sum((sliced.train.path / f"{n}.npy").stat().st_size for n in sliced.train.meta["columns"])
    assert peak < total / 4


def peak_of_import(source: Path, out: Path, **options) -> int:
    """The most memory in use at once, of numpy and of Python."""
    tracemalloc.start()
    import_data(source, name="toy", out=out, val_fraction=0.1, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_of_an_import_does_not_grow_with_slices_or_rewards(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "BLOCK_ROWS", 1024)
    peaks = {"slices": [], "rewards": []}
    for slices in (2, 16):
        folder = tmp_path / f"slices-{slices}"
        folder.mkdir()
        for number in range(slices):
            path, _ = write_ogbench(folder, make_episodes([499] * 20, seed=number))
            path.rename(folder / f"toy-play-v0-{number:03d}.npz")
        peaks["slices"].append(peak_of_import(folder, tmp_path / f"a{slices}"))
        path = tmp_path / f"flat-{slices}.npz"
        np.savez(path, **flat(make_episodes([500] * 20 * slices), True))
        peaks["rewards"].append(peak_of_import(path, tmp_path / f"b{slices}"))
    for few, many in peaks.values():
        # Seven times a slice's 10,000 rows more, of which the rewards and masks alone would be 1.1 MB.
        assert many - few < 100_000, peaks


def test_a_missing_slice_and_a_mixture_are_refused(tmp_path):
    for number in (0, 1, 3):
        path, _ = write_ogbench(tmp_path, make_episodes([5]))
        path.rename(tmp_path / f"toy-play-v0-{number:03d}.npz")
    with pytest.raises(DataError, match="Slice 002 is missing"):
        import_data(tmp_path, name="toy", out=tmp_path / "out")
    (tmp_path / "toy-play-v0-003.npz").rename(tmp_path / "other-002.npz")
    with pytest.raises(DataError, match="several data sets"):
        import_data(tmp_path, name="toy", out=tmp_path / "out")


def test_val_sibling_is_used_and_ours_is_drawn_by_whole_episodes(tmp_path):
    episodes = make_episodes([6] * 20)
    path, _ = write_ogbench(tmp_path, episodes)
    split = import_data(path, name="toy-play-v0", out=tmp_path / "split", val_fraction=0.25, seed=3)
    again = import_data(path, name="toy-play-v0", out=tmp_path / "again", val_fraction=0.25, seed=3)
    other = import_data(path, name="toy-play-v0", out=tmp_path / "other", val_fraction=0.25, seed=4)
    assert split.val is not None
    assert (split.train.episodes, split.val.episodes) == (15, 5)
    assert split.train.fingerprint == again.train.fingerprint != other.train.fingerprint
    firsts = {e.states[0].tobytes() for e in episodes}
    stores = (split.train, split.val)
    assert firsts == {np.asarray(s.observations[b]).tobytes() for s in stores for b in s.episode_starts}
    np.testing.assert_array_equal(split.train.info["qpos"], 2 * split.train.observations[:, :2].astype(np.float64))

    (tmp_path / "sibling").mkdir()
    held, _ = write_ogbench(tmp_path / "sibling", make_episodes([4], seed=9))
    held.rename(tmp_path / "toy-play-v0-val.npz")
    official = import_data(path, name="toy", out=tmp_path / "official")
    assert official.val is not None
    assert (official.train.episodes, official.val.rows) == (20, 5)


def test_a_next_observation_elsewhere_ends_an_episode(tmp_path, capsys):
    columns = flat(make_episodes([5, 7, 4], terminals=[0, 0, 0]), True)
    columns["timeouts"][:] = False
    np.savez(tmp_path / "unmarked.npz", **columns)
    data = import_data(tmp_path / "unmarked.npz", name="u", out=tmp_path / "u", val_fraction=0)
    assert data.train.episode_ends.tolist() == [6, 14, 19]
    assert "2 places" in capsys.readouterr().err


def test_a_gap_in_the_frames_ends_an_episode(tmp_path):
    import pyarrow.parquet as pq

    table = lerobot_table(make_episodes([10], terminals=[False]), 0)
    pq.write_table(table.take([0, 1, 2, 3, 6, 7, 8, 9]), tmp_path / "episode_000000.parquet")
    data = import_data(tmp_path, name="gap", out=tmp_path / "gap", val_fraction=0)
    assert data.train.episode_ends.tolist() == [4, 8]


def test_import_is_repeated_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERFLOW_DATA", str(tmp_path / "data"))
    path, _ = write_ogbench(tmp_path, make_episodes([5, 6]))
    data = import_data(path, name="toy-play-v0")
    assert data.train.path == tmp_path / "data" / "toy-play" / "train"
    rows = np.zeros(data.train.rows, np.float32)
    data.train.add_task("mine", rows, rows)
    assert import_data(path, name="toy-play").train.tasks == ("mine",)
    with pytest.raises(DataError, match="--force"):
        import_data(path, name="toy-play", val_fraction=0.5)
    assert import_data(path, name="toy-play", val_fraction=0.5, force=True).train.tasks == ()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["toy-play"]
    (tmp_path / "data" / "papers").mkdir()
    (tmp_path / "data" / "papers" / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="is no data set"):
        import_data(path, name="papers", force=True)


def test_what_a_killed_import_left_is_removed(tmp_path):
    path, _ = write_ogbench(tmp_path, make_episodes([5, 6]))
    left = tmp_path / f".toy.import-{2**22 + 1}"
    (left / "train").mkdir(parents=True)
    running = tmp_path / f".toy.import-{os.getppid()}"
    running.mkdir()
    import_data(path, name="toy", out=tmp_path / "toy")
    assert not left.exists()
    assert running.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [2_000, 30_000, 80_000])
def test_a_full_disk_is_said_and_leaves_nothing(limit, tmp_path):
    path, _ = write_hdf5(tmp_path, make_episodes([500] * 20))
    program = f"""
import resource
from steerflow.data.convert import import_data
from steerflow.errors import ArtefactError
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    import_data({str(path)!r}, name="toy", out={str(tmp_path / "toy")!r})
except ArtefactError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Free some space" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["flat.hdf5"]


@pytest.mark.parametrize(
    ("column", "row", "shown"),
    [
        ("observations", (7, 1), "observations holds nan at row 7, dimension 1 of flat.hdf5"),
        ("actions", (2, 0), "actions holds nan at row 2, dimension 0"),
        ("rewards", (5,), "rewards holds nan at row 5 of"),
        ("next_observations", (11, 2), "next_observations holds nan at row 11, dimension 2"),
    ],
)
def test_nan_is_named(column, row, shown, tmp_path, monkeypatch):
    import h5py

    monkeypatch.setattr(arrays, "BLOCK_ROWS", 3)
    path, _ = write_hdf5(tmp_path, make_episodes([4, 8, 3]))
    with h5py.File(path, "a") as file:
        file[column][row] = np.nan
    with pytest.raises(DataError, match=shown):
        import_data(path, name="toy", out=tmp_path / "toy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flat.hdf5"]


@pytest.mark.parametrize("name", ["ogbench", "hdf5", "npz", "lerobot v3"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_damaged_files_are_named(name, damage, tmp_path):
    path, options = LAYOUTS[name].write(tmp_path, make_episodes([200, 300]))
    file = path if path.is_file() else path / "data" / "chunk-000" / "file-000.parquet"
    data = file.read_bytes()
    file.write_bytes({"truncated": data[: len(data) * 2 // 3], "foreign": b"<html>no</html>" * 9, "empty": b""}[damage])
    with pytest.raises(ArtefactError, match=file.name):
        import_data(path, name="toy", format=LAYOUTS[name].format, out=tmp_path / "toy", **options)
    assert not (tmp_path / "toy").exists()


def test_an_edited_byte_is_found_while_streaming(tmp_path):
    path, _ = write_ogbench(tmp_path, make_episodes([500, 500]))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="toy-play-v0"):
        import_data(path, name="toy", out=tmp_path / "toy")


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    columns = flat(make_episodes([5, 5]), False)
    np.savez(tmp_path / "trap.npz", **{**columns, "actions": np.array([Trap()] * 10, object)}, allow_pickle=True)
    with pytest.raises(SteerflowError, match="numbers"):
        import_data(tmp_path / "trap.npz", name="trap", out=tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("mapping", "error", "shown"),
    [
        ({}, DataError, "--map observations=obs --map actions=act"),
        ({"observations": "obs", "actions": "acts"}, UnknownNameError, "Did you mean 'act'"),
        ({"observations": "obs", "actions": "act"}, DataError, "--map terminals=done"),
        ({"observations": "obs", "actions": "act", "terminals": "act"}, DataError, "one number per row"),
        ({"observations": "obs", "actions": "short", "episode_ends": ""}, DataError, "3 rows"),
        ({"observations": "obs", "actions": "text", "episode_ends": ""}, DataError, "must be numbers"),
        ({"observations": "obs", "actions": "act", "episode_ends": "last"}, DataError, "look inclusive"),
    ],
)
def test_mappings_that_do_not_fit_say_what_to_type(mapping, error, shown, tmp_path):
    columns = {"obs": np.zeros((6, 3)), "act": np.zeros((6, 2)), "done": np.zeros(6), "short": np.zeros((3, 2))}
    np.savez(tmp_path / "odd.npz", **columns, text=np.array(["a"] * 6), last=np.array([2, 5]))
    with pytest.raises(error, match=shown):
        import_data(tmp_path / "odd.npz", name="odd", mapping=mapping, out=tmp_path / "out")


def test_one_episode_without_marks_needs_an_explicit_word(tmp_path):
    np.savez(tmp_path / "one.npz", obs=np.zeros((6, 3)), act=np.zeros(6))
    mapping = parse_mapping(["observations=obs", "actions=act", "episode_ends="])
    data = import_data(tmp_path / "one.npz", name="one", mapping=mapping, out=tmp_path / "out")
    assert data.train.rows == 6
    assert data.val is None
    low, high = data.train.action_bounds
    assert (low < 0).all()
    assert (high > 0).all()
    with pytest.raises(DataError, match="OURS=THEIRS"):
        parse_mapping(["observations"])


def test_pictures_and_unknown_sources_are_refused(tmp_path):
    terminals = np.array([0, 0, 0, 1])
    np.savez(
        tmp_path / "visual.npz",
        observations=np.zeros((4, 8, 8, 3), np.uint8),
        actions=np.zeros((4, 2)),
        terminals=terminals,
    )
    with pytest.raises(DataError, match="pictures"):
        import_data(tmp_path / "visual.npz", name="visual", out=tmp_path / "out")
    with pytest.raises(UnknownNameError, match="Did you mean 'lerobot'"):
        import_data(tmp_path, name="x", format="lerobo")
    with pytest.raises(DataError, match="There is no file or folder"):
        import_data(tmp_path / "nothing.npz", name="x")
    with pytest.raises(DataError, match="cannot be the name"):
        import_data(tmp_path / "visual.npz", name="../x")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"none of \.npz"):
        import_data(tmp_path / "notes.txt", name="x")


def test_bounds_come_from_the_right_place(tmp_path):
    path, _ = write_minari(tmp_path / "m", make_episodes([5, 6]))
    space = import_data(path, name="toy", out=tmp_path / "space").train
    assert [b.tolist() for b in space.action_bounds] == [[-2, -2], [2, 2]]
    assert space.meta["source"]["action_bounds"] == "space"
    given = import_data(path, name="toy", out=tmp_path / "given", action_low=[-3, -4], action_high=5).train
    assert [b.tolist() for b in given.action_bounds] == [[-3, -4], [5, 5]]
    with pytest.raises(DataError, match="3 values"):
        import_data(path, name="toy", out=tmp_path / "bad", action_low=[0, 0, 0], action_high=1)
    with pytest.raises(DataError, match="low < high"):
        import_data(path, name="toy", out=tmp_path / "bad", action_low=1, action_high=1)
    with pytest.raises(DataError, match="both"):
        import_data(path, name="toy", out=tmp_path / "bad", action_low=1)


def test_observed_bounds_hold_the_data_and_are_never_empty():
    smallest, largest = np.array([-3.0, 5.0, 0.0]), np.array([1.0, 5.0, 1e5])
    low, high, origin = action_bounds(smallest, largest)
    assert origin == "observed"
    assert (low < smallest).all()
    assert (high > largest).all()
    assert (np.float32(low) < np.float32(high)).all()
    assert high[0] - 1 == pytest.approx(0.04)
    assert action_bounds(np.array([-1.0, -0.2]), np.array([1.0, 0.3]))[2] == "unit"
    assert action_bounds(np.array([-0.5]), np.array([0.5]))[2] == "observed"
    assert action_bounds(np.array([-0.5]), np.array([0.5]), unit=True)[2] == "unit"
    assert action_bounds(np.array([-1.5]), np.array([0.5]), unit=True)[2] == "observed"


@pytest.mark.parametrize(
    ("name", "module", "shown"),
    [
        ("hdf5", "h5py", r"steerflow\[import\]"),
        ("lerobot v3", "pyarrow.parquet", r"steerflow\[import\]"),
        ("minari", "minari", r"steerflow\[minari\]"),
    ],
)
def test_missing_libraries_say_what_to_install(name, module, shown, tmp_path, monkeypatch):
    path, _ = LAYOUTS[name].write(tmp_path / "s" if name != "hdf5" else tmp_path, make_episodes([5, 6]))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=shown):
        import_data(path, name="toy", out=tmp_path / "toy")


def test_minari_parts_are_chosen_by_name(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = Box(-np.inf, np.inf, (2,))
    buffer = EpisodeBuffer(
        observations={"observation": np.ones((5, 2), np.float32), "goal": np.full((5, 2), 3, np.float32)},
        actions=np.zeros((4, 2), np.float32),
        rewards=np.zeros(4),
        terminations=np.zeros(4, bool),
        truncations=last_only(4),
    )
    create_minari(tmp_path, "toy/dict-v0", [buffer], Dict({"observation": box, "goal": box}), box)
    with pytest.raises(DataError, match="--map observations="):
        import_data("toy/dict-v0", name="toy", format="minari", out=tmp_path / "out")
    with pytest.raises(UnknownNameError, match="Did you mean 'goal'"):
        import_data("toy/dict-v0", name="toy", format="minari", mapping={"observations": "gaol"}, out=tmp_path / "out")
    mapping = {"observations": "observation,goal"}
    data = import_data("toy/dict-v0", name="toy", format="minari", mapping=mapping, out=tmp_path / "out")
    np.testing.assert_array_equal(data.train.observations[0], [1, 1, 3, 3])
    with pytest.raises(UnknownNameError, match="minari download"):
        import_data("toy/else-v0", name="toy", format="minari", out=tmp_path / "x")


@needs_shared
def test_real_pusht(tmp_path):
    source = SHARED / "pusht_human_lowdim.npz"
    mapping = {"observations": "state", "actions": "action"}
    data = import_data(source, name="pusht", mapping=mapping, action_low=0, action_high=512, out=tmp_path / "pusht")
    assert data.val is not None
    assert data.train.episodes + data.val.episodes == 206
    assert data.train.rows + data.val.rows == 25_650
    assert data.train.observations.shape[1] == 5
    with np.load(source) as file:
        first = int(file["episode_ends"][0])
        stores = [s for s in (data.train, data.val) if np.array_equal(s.observations[:first], file["state"][:first])]
        assert len(stores) == 1
        np.testing.assert_array_equal(stores[0].actions[: first - 1], file["action"][: first - 1])


@needs_shared
def test_real_neorl2(tmp_path):
    pairs = (
        "observations=obs actions=action next_observations=next_obs rewards=reward terminals=done timeouts=truncated"
    )
    mapping = parse_mapping(pairs.split(" "))
    data = import_data(
        SHARED / "neorl2_dmsd_high_train.npz",
        name="dmsd",
        val=SHARED / "neorl2_dmsd_high_val.npz",
        mapping=mapping,
        out=tmp_path / "dmsd",
    )
    assert data.val is not None
    assert (data.train.transitions, data.val.transitions) == (100_000, 20_000)
    rewards, masks = data.train.rewards("dmsd")
    # Every episode ends because the recording does: nothing is terminal.
    assert masks.min() == 1
    with np.load(SHARED / "neorl2_dmsd_high_train.npz") as file:
        last = data.train.episode_ends - 1
        np.testing.assert_array_equal(data.train.observations[last], file["next_obs"][file["truncated"] > 0.5])
        assert rewards.sum(dtype=np.float64) == pytest.approx(file["reward"].sum(dtype=np.float64), rel=1e-6)


@needs_shared
def test_real_g1(tmp_path):
    data = import_data(SHARED / "unitree_g1_lerobot_v21", name="g1", out=tmp_path / "g1")
    assert data.val is not None
    assert data.train.episodes + data.val.episodes == 10
    assert data.train.observations.shape[1] == data.train.actions.shape[1] == 26
    low, high = data.train.action_bounds
    for store in (data.train, data.val):
        steps = np.delete(np.asarray(store.actions), store.episode_ends - 1, axis=0)
        assert ((steps > low) & (steps < high)).all()
