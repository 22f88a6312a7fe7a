"""Rows depend on (arm, task, episode) only: not on workers, lanes, company, interruptions."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from actors_for_tests import CRITIC, POLICY, DriftActor, arm, untrained
from steerflow.envs.pool import Pool, Reply
from steerflow.envs.tasks import TaskError
from steerflow.errors import ArtefactError, BusyError, MismatchError, SteerflowError, UnknownNameError
from steerflow.evaluate.arms import Actors, Arm
from steerflow.evaluate.rollout import evaluate
from steerflow.evaluate.rows import EpisodeRow, RowFile, episode_seed, read_rows
from steerflow.evaluate.timing import Timing
from steerflow.spec import Spec
from steerflow.steer.presets import recipe

TASK = "envs_for_tests:steerflow-test/Drift-v0"
ARMS = [arm("bc"), arm("qgf", weight=0.05), arm("qgf", weight=0.4), arm("best_of_n", candidates=4)]


def run(path: Path, arms=ARMS, workers=2, lanes=2, episodes=6, task=TASK, split="tune", **options) -> list[EpisodeRow]:
    with Pool(task, workers, lanes) as pool:
        return evaluate(arms, range(episodes), split, pool, path, actors=Actors(DriftActor), **options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[list[EpisodeRow], bytes]:
    path = tmp_path_factory.mktemp("reference") / "rows.jsonl"
    return run(path), path.read_bytes()


@pytest.mark.parametrize(("workers", "lanes"), [(1, 1), (1, 4), (2, 1), (2, 4)])
def test_rows_do_not_depend_on_workers_or_lanes(reference, tmp_path, workers, lanes):
    path = tmp_path / "rows.jsonl"
    assert run(path, workers=workers, lanes=lanes) == reference[0]
    assert path.read_bytes() == reference[1]


def test_rows_do_not_depend_on_other_arms(reference, tmp_path):
    alone = [row for i, one in enumerate(ARMS) for row in run(tmp_path / f"{i}.jsonl", arms=[one])]
    assert alone == reference[0]


def test_rows_hold_what_happened(reference):
    rows, _ = reference
    assert [(row.arm, row.episode) for row in rows] == [(one.name, i) for one in ARMS for i in range(6)]
    assert len({row.return_ for row in rows}) > 5
    assert {row.success for row in rows} == {True, False}
    for row in rows:
        assert row.seed == episode_seed(0, "tune", row.episode)
        assert 1 <= row.length <= 12
        assert row.return_ == (1 - row.length if row.success else -row.length)
        assert row.success or row.length == 12
        assert (row.policy, row.critic) == ("policy-1", "critic-1")
        assert row.q is not None
        assert row.velocity_norm == 2.0
        assert row.gradient_norm == (4.0 if row.method == "qgf" else 0.0)
        assert EpisodeRow.from_json(row.to_json()) == row
        fields = set(json.loads(row.to_json()))
        assert {"arm", "method", "weight", "candidates", "recipe", "task", "split", "episode", "seed"} < fields
        assert {"success", "return", "length", "q", "q_first", "policy", "critic"} < fields
    # The first decision is in the same state for all arms.
    firsts = {row.episode: row.q_first for row in rows[:6]}
    assert all(row.q_first == firsts[row.episode] for row in rows)


def test_arms_of_equal_structure_share_an_actor_and_everything_that_waits_is_one_call(tmp_path):
    made: list[DriftActor] = []

    def make(one):
        made.append(DriftActor(one))
        return made[-1]

    arms = [arm("qgf", weight=w) for w in (0.05, 0.1, 0.4)] + [arm("bc")]
    timing, waits = Timing(), 0

    class Counting(Pool):
        def wait(self):
            nonlocal waits
            waits += 1
            return super().wait()

    with Counting(TASK, workers=1, lanes=8) as pool:
        actors = Actors(make)
        evaluate(arms[:2], range(8), "tune", pool, tmp_path / "rows.jsonl", actors=actors, timing=timing)
        assert pool.builds == 8
        evaluate(arms, range(8), "tune", pool, tmp_path / "rows.jsonl", actors=actors, timing=timing)
        # Environments and actors are reused.
        assert pool.builds == 8
    assert [one.recipe.guided for one in made] == [True, False]
    assert max(made[0].batches) > 1
    calls = sum(len(one.batches) for one in made) - 2  # without those that compile
    assert timing.calls == calls
    assert timing.decisions == sum(sum(one.batches) - 1 for one in made)
    # One call for each actor, whenever answers have come.
    assert calls <= 2 * waits
    assert timing.environments_built == 8
    assert timing.episodes == 32
    assert 0 < timing.physics < timing.capacity
    assert 0 < timing.building < timing.capacity
    assert "32 episodes" in timing.line()
    assert "building 8 of them" in timing.line()
    assert 0 < timing.to_json()["physics_share"] < 1


class OneByOne(Pool):
    """A pool without processes: each ``wait`` answers one command, in order. Chunks take three steps of twelve."""

    def __init__(self, workers: int, lanes: int) -> None:
        self.task, self.workers, self.lanes, self.builds = TASK, workers, workers * lanes, 0
        self.queues: list[list[tuple[int, int]]] = [[] for _ in range(workers)]
        self.steps: dict[int, int] = {}

    def left(self, lane: int) -> int:
        return len(self.queues[lane % self.workers])

    def start(self, lane: int, seed: int) -> None:
        self.steps[lane] = 0
        self.queues[lane % self.workers].append((lane, 0))

    def execute(self, lane: int, actions: np.ndarray) -> None:
        self.queues[lane % self.workers].append((lane, 3))

    def wait(self) -> list[Reply]:
        queue = max(self.queues, key=len)
        if not queue:
            return []
        lane, steps = queue.pop(0)
        self.steps[lane] += steps
        done = self.steps[lane] == 12
        return [Reply(lane, np.zeros(2, np.float32), -1.0 * steps, steps, done, done, 0.0)]

    def flush(self) -> None: ...

    def abandon(self) -> None: ...


@pytest.mark.parametrize(("workers", "lanes", "rows"), [(1, 1, 1), (1, 4, 2.9), (2, 4, 4.8), (3, 2, 1)])
def test_calls_gather_rows_but_leave_workers_something_to_do(tmp_path, workers, lanes, rows):
    pool, left = OneByOne(workers, lanes), []

    class Watching(DriftActor):
        def rows(self, *arguments):
            left.append([len(queue) for queue in pool.queues])
            return super().rows(*arguments)

    made: list[Watching] = []

    def make(one):
        made.append(Watching(one))
        return made[-1]

    episodes, timing = 10 * workers * lanes, Timing()
    evaluate(ARMS[:1], range(episodes), "tune", pool, tmp_path / "rows.jsonl", actors=Actors(make), timing=timing)
    # Four decisions in each episode; the first call only compiles.
    assert timing.decisions == 4 * episodes
    calls, left = made[0].batches[1:], left[1:]
    # A lane alone cannot be stepped and decided for at once.
    assert lanes == 1 or np.mean([min(queues) > 0 for queues in left]) > 0.8
    assert all(min(queues) <= 1 for queues in left)
    assert np.mean(calls) >= rows


def test_episodes_do_not_wait_for_policies_of_others_to_compile(tmp_path):
    begun = threading.Event()

    def make(one):
        assert one.method == "bc" or begun.wait(30.0)
        return DriftActor(one)

    with Pool(TASK, workers=1, lanes=4) as pool:
        actors, path = Actors(make), tmp_path / "rows.jsonl"
        rows = evaluate(ARMS[:2], range(6), "tune", pool, path, actors=actors, on_row=lambda row, known: begun.set())
    assert rows == [row for row in run(tmp_path / "again.jsonl") if row.arm in (ARMS[0].name, ARMS[1].name)]


def test_a_policy_that_cannot_be_made_ends_the_evaluation(tmp_path):
    def make(one):
        raise MismatchError("needs a critic")

    with Pool(TASK, workers=1, lanes=2) as pool, pytest.raises(MismatchError, match="needs a critic"):
        evaluate(ARMS[:1], range(2), "tune", pool, tmp_path / "rows.jsonl", actors=Actors(make))


def test_splits_and_seeds_are_disjoint(tmp_path):
    seeds = [episode_seed(base, split, i) for base in (0, 1, 7) for split in ("tune", "test") for i in (0, 1, 999_999)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**32
    tune, test = (run(tmp_path / "rows.jsonl", arms=[ARMS[1]], split=split) for split in ("tune", "test"))
    assert not {row.seed for row in tune} & {row.seed for row in test}
    other = run(tmp_path / "rows.jsonl", arms=[ARMS[1]], seed=1)
    assert [row.return_ for row in other] != [row.return_ for row in tune]
    assert len(read_rows(tmp_path / "rows.jsonl")) == 18
    with pytest.raises(SteerflowError, match="below 1,000,000"):
        episode_seed(0, "tune", 1_000_000)
    with pytest.raises(UnknownNameError, match="Did you mean 'test'"):
        episode_seed(0, "tests", 0)


def test_finished_episodes_are_not_run_again(reference, tmp_path):
    path = tmp_path / "rows.jsonl"
    run(path, arms=ARMS[:2], episodes=4)
    seen: list[tuple[EpisodeRow, bool]] = []
    timing = Timing()
    rows = run(path, on_row=lambda row, known: seen.append((row, known)), timing=timing)
    assert timing.episodes == 4 * 6 - 2 * 4
    assert rows == reference[0]
    assert sorted((row for row, _ in seen), key=lambda r: r.order) == sorted(rows, key=lambda r: r.order)
    assert [known for _, known in seen] == [True] * 8 + [False] * 16
    again = Timing()
    assert run(path, timing=again) == rows
    assert (again.episodes, again.environments_built) == (0, 0)
    # Other weights of the networks, other rows.
    retrained = Arm(ARMS[0].name, "bc", POLICY, type(CRITIC)(spec=POLICY.spec, fingerprint="critic-2"), ARMS[0].recipe)
    timing = Timing()
    run(path, arms=[retrained], timing=timing)
    assert timing.episodes == 6


KILLED = """
import sys
from pathlib import Path
import test_rollout
task = "envs_for_tests:steerflow-test/Slow-v0"
test_rollout.run(Path(sys.argv[1]), episodes=8, task=task)
"""


def test_killed_and_resumed_gives_the_same_file(tmp_path):
    task = "envs_for_tests:steerflow-test/Slow-v0"
    whole = run(tmp_path / "whole.jsonl", episodes=8, task=task)
    path = tmp_path / "killed.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu"}
    for rows_before_kill in (3, 9):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], env=environment)
        deadline = time.monotonic() + 60
        while len(read_rows(path)) < rows_before_kill and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert rows_before_kill <= len(read_rows(path)) < len(whole)
    # What a writer leaves that was killed within its last line.
    with path.open("ab") as file:
        file.write(whole[-1].to_json().encode()[:70])
    assert run(path, episodes=8, task=task) == whole
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_cut_last_line_is_dropped_and_a_damaged_line_is_named(reference, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = reference[1].splitlines(keepends=True)
    for cut in (1, 50, len(lines[2]) - 1):
        path.write_bytes(lines[0] + lines[1] + lines[2][:cut])
        assert len(read_rows(path)) == 2
        with RowFile(path) as file:
            file.append(EpisodeRow.from_json(lines[3]))
        assert path.read_bytes() == lines[0] + lines[1] + lines[3]
    path.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    with pytest.raises(ArtefactError, match="Line 2 of"):
        read_rows(path)
    assert read_rows(tmp_path / "none.jsonl") == []


def test_two_processes_cannot_write_one_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    with RowFile(path), pytest.raises(BusyError, match="Another process"), RowFile(path):
        pass
    with RowFile(path):
        pass


def test_a_full_disk_is_told_and_keeps_the_rows(tmp_path, reference, monkeypatch):
    path = tmp_path / "rows.jsonl"
    written = os.write

    def full(descriptor, data):
        if len(read_rows(path)) == 2:
            written(descriptor, data[:20])
            raise OSError(28, "No space left on device")
        return written(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(ArtefactError, match=r"No space left on device\. Free some space"):
            run(path)
    assert len(read_rows(path)) == 2
    assert run(path) == reference[0]


def test_success_and_critic_can_be_unknown(tmp_path):
    rows = run(
        tmp_path / "rows.jsonl",
        arms=[Arm("bc", "bc", POLICY, None, ARMS[0].recipe)],
        task=TASK.replace("Drift", "Silent"),
    )
    assert {row.success for row in rows} == {None}
    assert {row.critic for row in rows} == {""}

    class Blind(DriftActor):
        def rows(self, *arguments):
            actions, info = super().rows(*arguments)
            return actions, {**info, "q": np.full(len(actions), np.nan)}

    with Pool(TASK, 1, 1) as pool:
        (row,) = evaluate([ARMS[0]], [0], "tune", pool, tmp_path / "blind.jsonl", actors=Actors(Blind))
    assert row.q is None
    assert row.q_first is None


def test_misfits_get_an_instruction(tmp_path):
    spec = Spec(5, 2, 3, (-1.0, -1.0), (1.0, 1.0))
    stranger = Arm("bc", "bc", type(POLICY)(spec=spec, fingerprint="x"), None, ARMS[0].recipe)
    with pytest.raises(MismatchError, match=r"needs observations of 5 dimensions, .* gives 2"):
        run(tmp_path / "rows.jsonl", arms=[stranger])
    with pytest.raises(SteerflowError, match="Two arms are the same"):
        run(tmp_path / "rows.jsonl", arms=[ARMS[0], ARMS[0]])
    with pytest.raises(TaskError, match="gripper fell off"):
        run(tmp_path / "rows.jsonl", task=TASK.replace("Drift", "Raises"))
    assert read_rows(tmp_path / "rows.jsonl") == []


def test_real_actors_give_the_same_rows_in_any_company(tmp_path):
    policy, critic = untrained(tmp_path, TASK)
    recipes = {
        "bc": recipe("bc"),
        "qgf w=0.1": recipe("qgf"),
        "qgf w=1": recipe("qgf", weight=1.0),
        "n=4": recipe("best_of_n", candidates=4),
    }
    arms = [Arm(name, name.split()[0], policy, critic, one) for name, one in recipes.items()]
    actors, found = Actors(), []
    for number, (workers, lanes, groups) in enumerate(
        [(2, 2, [arms]), (1, 1, [arms]), (1, 3, [[one] for one in arms])]
    ):
        with Pool(TASK, workers, lanes) as pool:
            path = tmp_path / f"{number}.jsonl"
            found.append([r for group in groups for r in evaluate(group, range(4), "test", pool, path, actors=actors)])
    assert found[0] == found[1] == found[2]
    assert (found[0][0].policy, found[0][0].critic) == (policy.fingerprint, critic.fingerprint)
    by_arm = {name: [row for row in found[0] if row.arm == name] for name in recipes}
    assert [r.return_ for r in by_arm["bc"]] != [r.return_ for r in by_arm["qgf w=1"]]
    assert all(row.gradient_norm > 0 for row in by_arm["qgf w=0.1"])
    assert all(row.q is not None for row in found[0])
