"""Several seeds, devices and processes: each gives what one seed on one device gives."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from steerflow.artefact import read_artefact
from steerflow.data.feed import resident_bytes
from steerflow.errors import SteerflowError, TrainingError
from steerflow.learn import memory, results
from steerflow.learn import train as loop
from steerflow.learn.config import FlowMatchingConfig
from steerflow.learn.state import Learner
from steerflow.learn.train import spec_of, train
from steerflow.load import load_critic, load_policy
from steerflow.report.read import read_run
from steerflow.run import find_run, read_config, read_lines
from test_learn import digest, small_config

TASKS = ("reach", "reach-far")
PARTS = {"policy": "policy", "critic/reach": "critic", "critic/reach-far": "critic"}


def assert_same_results(a, b):
    """Equal but for rounding: networks, and every loss in the metrics."""
    for name, kind in PARTS.items():
        ours, theirs = read_artefact(a / name, kind)[0], read_artefact(b / name, kind)[0]
        assert ours.keys() == theirs.keys()
        for tensor in ours:
            np.testing.assert_allclose(ours[tensor], theirs[tensor], rtol=1e-3, atol=1e-4, err_msg=f"{name} {tensor}")
    rows = [read_lines(folder / "metrics.jsonl") for folder in (a, b)]
    order = lambda row: (row["step"], row["split"], row["learner"])  # noqa: E731
    for ours, theirs in zip(*(sorted(each, key=order) for each in rows), strict=True):
        assert order(ours) == order(theirs)
        for key, value in ours.items():
            assert value == (theirs[key] if isinstance(value, str) else pytest.approx(theirs[key], rel=1e-3, abs=1e-4))


@pytest.fixture(scope="module")
def alone(small_data, tmp_path_factory):
    """Runs of the seeds 3 and 11, each alone, on one device."""
    folder = tmp_path_factory.mktemp("alone")
    for seed in (3, 11):
        train(small_config(small_data, folder / f"seed-{seed}", tasks=TASKS, seeds=(seed,)))
    return folder


@pytest.mark.parametrize(("feed", "in_turn"), [("memory", True), ("stream", True), ("memory", False)])
def test_seeds_together_give_what_each_gives_alone(small_data, tmp_path, alone, monkeypatch, feed, in_turn):
    """Whether the networks are trained one after the other or side by side, as on an accelerator."""
    monkeypatch.setattr(loop, "in_turn", lambda *_: in_turn)
    run = train(small_config(small_data, tmp_path / "run", tasks=TASKS, seeds=(3, 11), feed=feed))
    for seed in (3, 11):
        assert_same_results(run / f"seed-{seed}", alone / f"seed-{seed}")
        assert read_config(run / f"seed-{seed}")["both"]["seeds"] == [seed]
        assert load_policy(run / f"seed-{seed}").meta["seed"] == seed
        assert load_critic(run / f"seed-{seed}", "reach-far").task == "reach-far"
        assert len(read_run(run / f"seed-{seed}").metrics) == 3 * 2 * 4
    weights = [load_policy(run / f"seed-{seed}").network.body.layers[0].weight for seed in (3, 11)]
    assert np.abs(weights[0] - weights[1]).max() > 0.1


def test_all_seeds_and_tasks_are_one_compilation_and_one_dispatch_per_call(small_data, tmp_path, monkeypatch):
    compiled, dispatched, compiled_updates = [], [], loop.compiled_updates

    class Spy:
        def __init__(self, *arguments):
            self._call = compiled_updates(*arguments)

        def lower(self, *arguments):
            compiled.append(None)
            self._compiled = self._call.lower(*arguments).compile()
            return self

        def compile(self):
            return self

        def memory_analysis(self):
            return self._compiled.memory_analysis()

        def __call__(self, *arguments):
            dispatched.append(None)
            return self._compiled(*arguments)

    monkeypatch.setattr(loop, "compiled_updates", Spy)
    train(small_config(small_data, tmp_path / "run", tasks=TASKS, seeds=(0, 1, 2)))
    assert (len(compiled), len(dispatched)) == (1, 4)


def test_a_seed_is_a_run_of_its_own_and_one_more_trains_alone(small_data, tmp_path, monkeypatch):
    trained, run_updates = [], loop.run_updates
    monkeypatch.setattr(
        loop, "run_updates", lambda learner, *rest: trained.append(learner.config.seeds) or run_updates(learner, *rest)
    )
    config = small_config(small_data, tmp_path / "run", seeds=(0, 1))
    train(config)
    train(dataclasses.replace(config, seeds=(0, 1, 2)))
    one = dataclasses.replace(config, seeds=(1,), run=tmp_path / "run/seed-1")
    train(one)
    train(dataclasses.replace(one, updates=80))
    assert trained == [(0, 1), (2,), (1,)]
    assert read_lines(tmp_path / "run/seed-1/metrics.jsonl")[-1]["step"] == 80
    with pytest.raises(SteerflowError, match=r"run for each seed\. Name one: .*seed-0, .*seed-1, .*seed-2\."):
        find_run(tmp_path / "run")
    with pytest.raises(SteerflowError, match=r"continue one with --run .*seed-0"):
        train(dataclasses.replace(config, seeds=(0,)))
    with pytest.raises(SteerflowError, match="several different ones"):
        train(dataclasses.replace(config, seeds=(0, 0)))


def test_continued_seeds_end_with_the_same_bytes(small_data, tmp_path):
    config = small_config(small_data, tmp_path / "run", seeds=(0, 1), save_seconds=0.0)
    reference = digest(train(dataclasses.replace(config, run=tmp_path / "reference", updates=80)))
    train(config)
    # As if killed after the checkpoint of one seed and before that of the other.
    for path in (tmp_path / "run/seed-1/checkpoints/both/0000000040").iterdir():
        path.unlink()
    assert digest(train(dataclasses.replace(config, updates=80))) == reference


def test_a_loss_that_is_not_finite_is_named_with_its_seed(small_data, tmp_path):
    config = small_config(small_data, tmp_path, seeds=(4, 5))
    learner = Learner(config, spec_of(small_data.train, config.chunk))
    info = {"policy": {"loss": np.ones((5, 2))}, "critic": {"critic_loss": np.ones((5, 2, 1))}}
    info["critic"]["critic_loss"][2, 1, 0] = np.nan
    with pytest.raises(
        TrainingError, match=r"critic/reach of seed 5 is no longer finite at update 13 .*seed-5/checkpoints"
    ):
        results.require_finite(learner, config.folders(), info, 10, 10)


def test_what_will_not_fit_is_refused_before_the_start(small_data, tmp_path, monkeypatch, capsys):
    config = small_config(small_data, tmp_path / "run", tasks=TASKS, seeds=(0, 1), feed="memory")
    train(dataclasses.replace(config, run=tmp_path / "fits"))
    told = r"memory [\d.]+ kB \(networks and optimisers .* kB, data .* kB, batches .* kB, temporaries .* kB\) of .* GB free"
    assert re.search(told, capsys.readouterr().err)
    state = sum(x.nbytes for x in jax.tree.leaves(Learner(config, spec_of(small_data.train, 2)).init()))
    # On the host, then on the device.
    held = 2 * sum(resident_bytes(store, TASKS) for store in (small_data.train, small_data.val))
    tiny = dataclasses.replace(config, learn="policy", policy=FlowMatchingConfig(hidden=(1,)))
    began, begin = [], loop._begin
    monkeypatch.setattr(loop, "_begin", lambda *arguments: began.append(None) or begin(*arguments))
    for asked, free, advice in ((config, state + held - 1, "fewer --seeds or --tasks"), (tiny, 2000, "--feed stream")):
        monkeypatch.setattr(memory, "free_device_memory", lambda _, free=free: free)
        with pytest.raises(SteerflowError, match=f"does not fit into the memory.*{advice}"):
            train(asked)
    # Before anything was put in memory.
    assert not began
    monkeypatch.setattr(memory, "free_device_memory", lambda _: state + held + 100)
    with pytest.raises(SteerflowError, match=r"temporaries .*smaller --batch"):
        train(dataclasses.replace(config, run=tmp_path / "large", batch=512))
    assert not (tmp_path / "large/seed-0/checkpoints").exists()


def test_devices_that_are_not_there_are_refused(small_data, tmp_path):
    with pytest.raises(SteerflowError, match=r"99 devices were asked for, but there are 1 \(cpu\)"):
        train(small_config(small_data, tmp_path / "run", devices=99))


MANY_DEVICES = textwrap.dedent("""
    import dataclasses, sys
    from pathlib import Path
    import jax
    from steerflow.errors import SteerflowError
    from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig
    from steerflow.learn.devices import Layout
    from steerflow.learn.train import train

    data, folder = sys.argv[1], Path(sys.argv[2])
    config = TrainConfig(
        data=data, run=folder, tasks=("reach", "reach-far"), chunk=2, updates=40, batch=8, seeds=(3, 11), log_every=10,
        call_updates=10, policy=FlowMatchingConfig(hidden=(16, 16)), critic=IQLConfig(hidden=(16, 16)), devices=8,
    )
    train(dataclasses.replace(config, run=folder / "batch"))
    train(dataclasses.replace(config, run=folder / "stream", feed="stream", devices=4))
    train(dataclasses.replace(config, run=folder / "seeds", shard="seeds", devices=2))
    # A run goes on on another number of devices.
    train(dataclasses.replace(config, run=folder / "parameters", shard="parameters", updates=20))
    train(dataclasses.replace(config, run=folder / "parameters", shard="parameters", devices=2))
    weight = Layout.of(dataclasses.replace(config, shard="parameters")).of_state(jax.ShapeDtypeStruct((2, 16, 12), float))
    print(weight.shard_shape((2, 16, 12)))
    for wrong in (dict(batch=9), dict(shard="seeds")):
        try:
            train(dataclasses.replace(config, run=folder / "wrong", **wrong))
        except SteerflowError as error:
            print(error)
""")


def split_cpu(devices):
    """The environment of a process that sees so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def test_eight_devices_give_what_one_gives(small_data, tmp_path, alone):
    environment = split_cpu(8)
    done = subprocess.run(
        [sys.executable, "-c", MANY_DEVICES, str(small_data.train.path.parent), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("batch", "stream", "seeds", "parameters"):
        for seed in (3, 11):
            assert_same_results(tmp_path / name / f"seed-{seed}", alone / f"seed-{seed}")
    assert done.stdout.splitlines() == [
        "(2, 2, 12)",
        "9 chunks of a batch cannot be split over 8 devices. Give --batch a multiple of 8, or other --devices.",
        "2 seeds cannot be split over 8 devices. Give --seeds a multiple of 8, or other --devices.",
    ]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(small_data, tmp_path, alone):
    def together(updates, *more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [
            sys.executable, "-m", "steerflow", "train", "both", "--data", str(small_data.train.path.parent), "--run", "run",
            "--tasks", *TASKS, "--seeds", "3", "11", "--chunk", "2", "--updates", str(updates), "--batch", "8",
            "--log-every", "10", "--call-updates", "10", "--policy.hidden", "16", "16", "--critic.hidden", "16", "16",
            "--distributed", *more,
        ]  # fmt: skip
        processes = []
        for number in range(2):
            environment = {
                **split_cpu(2),
                "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number),
            }  # fmt: skip
            processes.append(
                subprocess.Popen(
                    command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        said = [process.communicate(timeout=600) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
        return said

    said = together(20, "--shard", "parameters")
    assert "memory" in said[0][1]
    assert "memory" not in said[1][1]
    together(40, "--feed", "stream")
    for seed in (3, 11):
        assert_same_results(tmp_path / f"run/seed-{seed}", alone / f"seed-{seed}")


def test_processes_that_find_no_others_say_how_to_start_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "steerflow", "train", "policy", "--data", "x", "--distributed"],
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "JAX_COORDINATOR_ADDRESS=HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr
