"""Parts in a run folder: one loop, one resume and one check of settings for all kinds."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

from steerflow.critic import Critic, CriticNetworks
from steerflow.errors import BusyError, MismatchError, SteerflowError, UnknownNameError
from steerflow.learn.config import (
    PARTS,
    AmortisedConfig,
    FlowMatchingConfig,
    IQLConfig,
    LatentConfig,
    OptimalConfig,
    RobustConfig,
    TrainConfig,
)
from steerflow.learn.distil import LEARNERS
from steerflow.learn.networks import Critics, Value
from steerflow.learn.train import train
from steerflow.load import load_part
from steerflow.part import NETWORKS, Part
from steerflow.policy import Policy
from steerflow.report.read import read_run
from steerflow.run import data_of, locked, read_config, read_lines
from steerflow.steer.actor import steer

CONFIGS = {"amortised": AmortisedConfig, "robust": RobustConfig, "optimal": OptimalConfig, "latent": LatentConfig}
METHODS = {"amortised": "qgf_amortised", "robust": "robust_q", "optimal": "cfgrl", "latent": "dsrl"}


def test_every_table_has_every_kind():
    assert set(PARTS) == set(NETWORKS) == set(LEARNERS) == set(CONFIGS) == set(METHODS)
    assert {"policy", "critic", "both", *PARTS} == set(get_args(get_type_hints(TrainConfig)["learn"]))


TASKS = ("reach", "reach-far")


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """A run folder with a policy and the critics of two tasks."""
    folder = tmp_path_factory.mktemp("parts") / "run"
    return train(
        TrainConfig(
            data=str(small_data.train.path.parent), run=folder, tasks=TASKS, chunk=2, updates=40, batch=8, log_every=20,
            call_updates=20, policy=FlowMatchingConfig(hidden=(16, 16)), critic=IQLConfig(hidden=(16, 16)),
            normalise="standard",
        )
    )  # fmt: skip


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture(params=PARTS)
def kind(request):
    return request.param


def config_of(kind, run, **changes):
    base = TrainConfig(data="", run=run, learn=kind, updates=40, batch=8, log_every=10, call_updates=10)
    return dataclasses.replace(base, **{kind: CONFIGS[kind](hidden=(12, 12))} | changes)


def weights(kind, run, task="reach"):
    return (run / kind / task / "tensors.safetensors").read_bytes()


def test_a_run_is_learnt_from_for_all_its_tasks_at_once(kind, copy):
    policy = Policy.load(copy / "policy")
    train(config_of(kind, copy))
    for task in TASKS:
        critic, part = Critic.load(copy / "critic" / task), load_part(copy, kind, task)
        part.require_fits(policy, critic, "min")
        assert (part.kind, part.task) == (kind, task)
        np.testing.assert_array_equal(part.normaliser.mean, critic.normaliser.mean)
        actions, _ = steer(policy, critic, METHODS[kind], parts=[part])(jax.random.key(0), np.zeros((3, 3)))
        assert np.isfinite(actions).all()
    mine = read_lines(copy / kind / "metrics.jsonl")
    assert {(row["learner"], row["split"]) for row in mine} == {
        (f"{kind}/{task}", split) for task in TASKS for split in ("train", "val")
    }
    assert all("loss" in row for row in mine)
    assert [r["step"] for r in mine if (r["learner"], r["split"]) == (f"{kind}/reach", "train")] == [10, 20, 30, 40]
    assert {row["learner"] for row in read_run(copy).metrics} > {"policy", "critic/reach", f"{kind}/reach"}


def test_tasks_learn_together_as_they_do_alone(copy, tmp_path):
    alone = shutil.copytree(copy, tmp_path / "alone")
    train(config_of("latent", copy))
    train(config_of("latent", alone, tasks=("reach",)))
    both = [jax.tree.leaves(Part.load(r / "latent/reach").network) for r in (copy, alone)]
    for x, y in zip(*both, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_running_again_reuses_more_updates_continue_and_other_settings_begin_anew(copy, tmp_path):
    # The kind with the largest state: three networks' worth, and a number.
    kind = "latent"
    train(config_of(kind, copy, tasks=("reach",)))
    first, written = weights(kind, copy), (copy / kind / "reach/meta.json").stat().st_mtime_ns
    train(config_of(kind, copy, tasks=("reach",)))
    assert (copy / kind / "reach/meta.json").stat().st_mtime_ns == written
    train(config_of(kind, copy, tasks=("reach",), updates=80))
    whole = shutil.copytree(copy, tmp_path / "whole")
    shutil.rmtree(whole / kind)
    shutil.rmtree(whole / "checkpoints")
    train(config_of(kind, whole, tasks=("reach",), updates=80))
    assert weights(kind, copy) == weights(kind, whole) != first
    train(config_of(kind, copy, tasks=("reach",), **{kind: CONFIGS[kind](hidden=(12,))}))
    assert load_part(copy, kind).meta["network"]["hidden"] == [12]


def test_another_aggregate_or_critic_begins_anew(copy):
    train(config_of("amortised", copy, tasks=("reach",)))
    first = weights("amortised", copy)
    train(config_of("amortised", copy, tasks=("reach",), amortised=AmortisedConfig(hidden=(12, 12), aggregate="mean")))
    assert load_part(copy, "amortised").meta["aggregate"] == "mean"
    shutil.rmtree(copy / "critic/reach")
    shutil.copytree(copy / "critic/reach-far", copy / "critic/reach")
    train(config_of("amortised", copy, tasks=("reach",)))
    assert load_part(copy, "amortised").meta["aggregate"] == "min"
    assert weights("amortised", copy) != first


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from steerflow.learn.config import *
    from steerflow.learn.train import train
    train(TrainConfig(data="", run=Path(sys.argv[1]), learn="amortised", tasks=("reach",), updates=int(sys.argv[2]), batch=8,
        log_every=100, call_updates=50, save_seconds=0, amortised=AmortisedConfig(hidden=(12, 12))))
""")


@pytest.mark.slow
def test_killed_it_ends_with_the_same_bytes(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")
    command = [sys.executable, "-c", KILLED]
    process = subprocess.Popen([*command, str(copy), "1000000"], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((copy / "checkpoints/amortised").glob("[0-9]*"))) < 2:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = max(int(folder.name) for folder in (copy / "checkpoints/amortised").glob("[0-9]*"))
    for folder in (copy, other):
        subprocess.run([*command, str(folder), str(reached + 500)], check=True)
    assert weights("amortised", copy) == weights("amortised", other)
    mine, others = (read_lines(folder / "amortised/metrics.jsonl") for folder in (copy, other))
    assert mine == others


def test_parts_of_a_run_are_learnt_at_once_but_not_beside_their_teachers(copy, monkeypatch):
    monkeypatch.setattr("steerflow.run._WAIT_SECONDS", 0)
    with locked(copy, "optimal"):
        train(config_of("robust", copy))
        for same_or_whole in (config_of("optimal", copy), TrainConfig(data=data_of(copy), run=copy, tasks=TASKS)):
            with pytest.raises(BusyError, match="Another process"):
                train(same_or_whole)
    assert set(read_config(copy)) == {"both", "robust"}
    with locked(copy), pytest.raises(BusyError, match="Another process"):
        train(config_of("robust", copy))


def test_what_cannot_be_learnt_from_is_said(copy, tmp_path):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'reach'.*train critic"):
        train(config_of("amortised", copy, tasks=("raech",)))
    with pytest.raises(SteerflowError, match="There is no run folder"):
        train(config_of("amortised", tmp_path / "nothing"))
    with pytest.raises(SteerflowError, match="seed-N"):
        train(config_of("amortised", copy, seeds=(0, 1)))
    with pytest.raises(UnknownNameError, match="Did you mean 'amortised'"):
        load_part(copy, "amortized")
    (copy / "config.toml").write_text("")
    with pytest.raises(SteerflowError, match="Give --data NAME"):
        train(config_of("amortised", copy))
    shutil.rmtree(copy / "critic")
    with pytest.raises(SteerflowError, match="holds no critic to learn from"):
        train(config_of("amortised", copy))


def test_critics_of_different_sizes_are_taken_one_by_one(copy):
    critic = Critic.load(copy / "critic/reach")
    wide = CriticNetworks(Critics(jax.random.key(0), 3, 4, (20,), 2), Value(jax.random.key(0), 3, (20,)))
    meta = {**critic.meta, "task": "reach-far", "network": {"hidden": [20], "ensemble": 2}}
    Critic(critic.spec, critic.normaliser, wide, meta).save(copy / "critic/reach-far")
    with pytest.raises(MismatchError, match="differ in size; take them one by one, with --task"):
        train(config_of("amortised", copy))
