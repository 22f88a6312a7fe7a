"""The pool of workers: episodes are functions of their seed, environments are built once, failures are told."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from steerflow.envs.pool import Pool, Reply
from steerflow.envs.tasks import TaskError
from steerflow.envs.worker import pack, unpack
from steerflow.errors import SteerflowError, UnknownNameError

HERE = "envs_for_tests:steerflow-test"


def finish(pool: Pool, lane: int, seed: int, chunk: int = 3) -> np.ndarray:
    """Run one episode with actions that depend on the seed; its observations and rewards."""
    rng, rows = np.random.default_rng(seed), []
    pool.start(lane, seed)
    while True:
        (reply,) = pool.wait()
        rows += [reply.observation, [reply.reward, reply.steps]]
        if reply.done:
            assert isinstance(reply.success, bool)
            return np.concatenate(rows)
        pool.execute(lane, rng.uniform(-1, 1, (chunk, 2)))


def test_messages_arrive_as_they_were():
    array = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    items = [({"lane": 1, "reward": 0.1 + 0.2, "shape": "x"}, array), ({"success": None}, None), ({}, np.zeros((0, 4)))]
    (first, second, third) = unpack(pack(items))
    assert first[0] == {"lane": 1, "reward": 0.1 + 0.2}
    assert first[1] is not None
    assert np.array_equal(first[1], array)
    assert second == ({"success": None}, None)
    assert third[1] is not None
    assert third[1].shape == (0, 4)


def test_an_episode_depends_on_its_seed_alone_not_on_lane_or_history():
    with Pool(f"{HERE}/Drift-v0", workers=2, lanes=2) as pool:
        first = [finish(pool, lane=0, seed=seed) for seed in range(4)]
        again = [finish(pool, lane=lane, seed=seed) for lane, seed in ((3, 2), (1, 3), (2, 0), (0, 1))]
        assert not np.array_equal(first[0], first[1])
        for seed, rows in zip((2, 3, 0, 1), again, strict=True):
            assert np.array_equal(rows, first[seed])
        assert pool.builds == 4


def test_interleaved_episodes_equal_those_alone():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (4, 2, 3, 2)).astype(np.float32)
    with Pool(f"{HERE}/Drift-v0", workers=1, lanes=4) as pool:

        def run(lanes: list[int]) -> dict[int, list[Reply]]:
            replies: dict[int, list[Reply]] = {lane: [] for lane in lanes}
            for lane in lanes:
                pool.start(lane, 100 + lane)
            left = {lane: 2 for lane in lanes}
            while any(len(found) < 3 for found in replies.values()):
                for reply in pool.wait():
                    replies[reply.lane].append(reply)
                    if left[reply.lane]:
                        left[reply.lane] -= 1
                        pool.execute(reply.lane, actions[reply.lane][left[reply.lane]])
            return replies

        together = run([0, 1, 2, 3])
        for lane in range(4):
            for a, b in zip(run([lane])[lane], together[lane], strict=True):
                assert np.array_equal(a.observation, b.observation)
                assert (a.reward, a.steps, a.done) == (b.reward, b.steps, b.done)


def test_answers_of_abandoned_episodes_are_thrown_away():
    with Pool(f"{HERE}/Slow-v0", workers=2, lanes=2) as pool:
        for lane in range(4):
            pool.start(lane, lane)
        pool.flush()
        pool.abandon()
        expected = finish(pool, lane=1, seed=7)
        pool.start(1, 8)
        assert np.array_equal(finish(pool, lane=1, seed=7), expected)
        assert np.array_equal(finish(pool, lane=0, seed=7), expected)


def test_answers_come_while_other_lanes_are_stepped():
    with Pool(f"{HERE}/Slow-v0", workers=1, lanes=3) as pool:
        finish(pool, lane=0, seed=0)
        for lane in range(3):
            pool.start(lane, lane)
        assert pool.left(0) == pool.left(2) == 3
        found = 0
        while pool.left(0):
            found += len(pool.wait())
            assert found == 3 - pool.left(0)
        for lane in range(3):
            pool.execute(lane, np.full((12, 2), 1e-3))
        # Each lane is stepped for a tenth of a second.
        assert len(pool.wait()) < 3
        assert pool.left(0) > 0


def test_real_environments_are_built_once_and_reset_to_the_same_state():
    with Pool("cube-single-play", workers=1, lanes=2) as pool:
        observations = {}
        for lane, seed in ((0, 1), (1, 1), (0, 2), (1, 2), (1, 1)):
            pool.start(lane, seed)
            pool.wait()
            pool.execute(lane, np.full((5, 5), 0.3))
            (reply,) = pool.wait()
            observations.setdefault(seed, []).append(reply.observation)
            assert reply.steps == 5
            assert reply.observation.dtype == np.float32
            assert reply.seconds > 0
        assert pool.builds == 2
        assert all(np.array_equal(x, observations[1][0]) for x in observations[1])
        assert np.array_equal(*observations[2])


def test_success_is_unknown_where_the_environment_gives_none():
    with Pool(f"{HERE}/Silent-v0", workers=1, lanes=1) as pool:
        pool.start(0, 0)
        (reply,) = pool.wait()
        pool.execute(0, np.zeros((20, 2)))
        (reply,) = pool.wait()
        assert reply.done
        assert reply.success is None
        assert reply.steps <= 12


def test_workers_import_no_jax_and_use_one_thread():
    import jax

    jax.numpy.zeros(1)
    with Pool(f"{HERE}/Jaxless-v0", workers=1, lanes=1) as pool:
        pool.start(0, 0)
        (reply,) = pool.wait()
    assert reply.observation.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("task", "message"),
    [("Raises", "failed. RuntimeError: the gripper fell off"), ("Dies", r"died \(exit code 3\)")],
)
def test_a_failing_environment_says_why(task, message):
    with Pool(f"{HERE}/{task}-v0", workers=2, lanes=1) as pool:

        def run() -> None:
            while True:
                for reply in pool.wait():
                    pool.execute(reply.lane, np.zeros((2, 2)))

        pool.start(0, 0)
        pool.start(1, 1)
        with pytest.raises(TaskError, match=message):
            run()


def test_wrong_actions_and_unknown_tasks_get_an_instruction():
    with Pool(f"{HERE}/Drift-v0", workers=1, lanes=1) as pool:
        pool.start(0, 0)
        pool.wait()
        pool.execute(0, np.zeros((2, 7)))
        with pytest.raises(SteerflowError, match="actions have 7 dimensions, this environment's 2"):
            pool.wait()
    with pytest.raises(UnknownNameError, match="Did you mean"):
        Pool("cube-singel-play-singletask-task2-v0")


def test_a_killed_worker_is_named():
    with Pool(f"{HERE}/Slow-v0", workers=1, lanes=1) as pool:
        pool.start(0, 0)
        pool.wait()
        pool.execute(0, np.zeros((12, 2)))
        pool.flush()
        os.kill(pool.processes[0], signal.SIGKILL)
        with pytest.raises(TaskError, match="SIGKILL"):
            pool.wait()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# A script without an ``if __name__`` guard: its pool must work all the same.
SCRIPT = f"""
import time
import jax
from steerflow.envs.pool import Pool

pool = Pool("{HERE}/Slow-v0", workers=2, lanes=1)
for lane in (0, 1):
    pool.start(lane, lane)
got = []
while len(got) < 2:
    got += pool.wait()
print(*pool.processes, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_pool(how, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu"}
    # A session of its own, so that Ctrl-C can be sent to the whole foreground group as a terminal does.
    script_process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert script_process.stdout is not None
    workers = [int(word) for word in script_process.stdout.readline().split()]
    assert len(workers) == 2
    if how == signal.SIGINT:
        os.killpg(script_process.pid, how)
    else:
        script_process.send_signal(how)
    _, errors = script_process.communicate(timeout=120)
    assert errors.count("Traceback") == (1 if how == signal.SIGINT else 0)
    deadline = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
