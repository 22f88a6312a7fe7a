"""Amortised guidance: what it learns from, its loss, what it predicts, and the run folder's artefact."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steerflow.amortised import AmortisedGuidance
from steerflow.critic import Critic, CriticNetworks
from steerflow.data.index import Chunks
from steerflow.errors import MismatchError, SteerflowError, UnknownNameError
from steerflow.learn import amortise
from steerflow.learn.amortise import Points
from steerflow.learn.config import AmortiseConfig, FlowMatchingConfig, IQLConfig, TrainConfig
from steerflow.learn.networks import Critics, Value
from steerflow.learn.train import train
from steerflow.policy import Policy
from steerflow.run import read_lines
from steerflow.spec import Spec
from steerflow.steer.models import Models
from steerflow.steer.presets import recipe
from steerflow.steer.sample import sample

SPEC = Spec(2, 2, 1, (-1.0, -1.0), (1.0, 1.0))
STD, CURVATURE = 0.3, np.asarray([40.0, 10.0], np.float32)


def velocity(observations, a, t):
    """The exact velocity from N(0, 1) to N(0.5 s, STD^2)."""
    mean, t = 0.5 * observations, jnp.reshape(t, (-1, 1))
    return mean + (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2) * (a - t * mean)


def quadratic(observations, a):
    """Its gradient is ``CURVATURE (sin(3 s) - a)``."""
    return -0.5 * jnp.sum(CURVATURE * (a - jnp.sin(3 * observations)) ** 2, axis=-1)


TEACHER = Models(velocity, quadratic)


def states(seed, n):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, 2)), jnp.float32)


def chunks_of(seed, n, key=None):
    """States and data actions around 0.5 s; in a traced function by ``key``."""
    if key is None:
        key = jax.random.key(seed)
    state_key, action_key = jax.random.split(key)
    observations = jax.random.uniform(state_key, (n, 2), minval=-1, maxval=1)
    actions = jnp.clip(0.5 * observations + STD * jax.random.normal(action_key, (n, 2)), -1, 1)
    return Chunks(observations, observations, actions[:, None], *(jnp.ones((n, 1)) for _ in range(4)))


def test_points_are_estimates_on_the_datas_path_and_where_guidance_takes_them():
    chunks, key = chunks_of(0, 2000), jax.random.key(1)
    got = amortise.points_of(TEACHER, chunks, key, jnp.asarray(20.0))
    s, action = (np.asarray(x, np.float64).reshape(2000, 2) for x in (chunks.observations, chunks.actions))
    noise_key, time_key, weight_key = jax.random.split(key, 3)
    t = np.asarray(jax.random.uniform(time_key, (2000,)), np.float64)[:, None]
    a = (1 - t) * np.asarray(jax.random.normal(noise_key, (2000, 2))) + t * action
    estimate = np.clip(a + (1 - t) * np.asarray(velocity(s, a, t)), -1, 1)
    gradient = CURVATURE * (np.sin(3 * s) - estimate)
    weight = 0.5 / 20.0 * np.asarray(jax.random.uniform(weight_key, (2000, 1)), np.float64)
    moved = np.clip(estimate + weight * gradient, -1, 1)
    for found, first, second in zip(
        got, (s, estimate, gradient), (s, moved, CURVATURE * (np.sin(3 * s) - moved)), strict=True
    ):
        np.testing.assert_allclose(found, np.concatenate([first, second]), rtol=1e-3, atol=1e-3)


def test_the_loss_against_numpy():
    config = AmortiseConfig(hidden=(8, 8))
    network = amortise.init(jax.random.key(0), SPEC, config, TEACHER, states(0, 8)).network
    scale, rng = float(network.scale), np.random.default_rng(0)
    points = Points(*(jnp.asarray(rng.normal(size=(6, 2)), jnp.float32) for _ in range(3)))
    loss, info = amortise.distillation_loss(network, points)
    predicted = np.asarray(network(points.observations, points.estimates), np.float64)
    g = np.asarray(points.gradients, np.float64)
    assert float(loss) == pytest.approx((((predicted - g) / scale) ** 2).mean(), rel=1e-4)
    assert float(info["relative_error"]) == pytest.approx(np.linalg.norm(predicted - g) / np.linalg.norm(g), rel=1e-4)
    cosines = (predicted * g).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(g, axis=1)
    assert float(info["cosine"]) == pytest.approx(cosines.mean(), rel=1e-4)


def test_the_scale_is_the_gradients_root_mean_square_at_estimates_from_noise():
    config, s = AmortiseConfig(hidden=(8, 8)), np.asarray(states(0, 4000))
    noise = np.random.default_rng(1).normal(size=s.shape)
    estimates = np.clip(noise + np.asarray(velocity(s, noise, 0.0)), -1, 1)
    expected = np.sqrt(((CURVATURE * (np.sin(3 * s) - estimates)) ** 2).mean())
    for factor in (1.0, 1000.0):
        teacher = Models(velocity, lambda observations, a, k=factor: k * quadratic(observations, a))
        got = amortise.init(jax.random.key(0), SPEC, config, teacher, jnp.asarray(s)).network.scale
        assert float(got) == pytest.approx(factor * expected, rel=0.05)


def test_an_update_is_a_step_of_adam_and_leaves_the_scale():
    config = AmortiseConfig(hidden=(8, 8), learning_rate=1e-2)
    state = amortise.init(jax.random.key(0), SPEC, config, TEACHER, states(0, 8))
    points = amortise.points_of(TEACHER, chunks_of(0, 16), jax.random.key(1), state.network.scale)
    after, _ = amortise.update(state, points, config)
    assert float(after.network.scale) == float(state.network.scale)
    step = np.asarray(after.network.body.output.weight - state.network.body.output.weight)
    np.testing.assert_allclose(np.abs(step[np.abs(step) > 1e-6]), 1e-2, rtol=0.05)


@pytest.fixture(scope="module")
def distilled():
    """A network distilled from the quadratic critic in a few seconds."""
    config = AmortiseConfig(hidden=(64, 64), learning_rate=3e-3)

    def one(state, step):
        key = jax.random.fold_in(jax.random.key(0), step)
        chunks = chunks_of(0, 128, jax.random.fold_in(key, 1))
        points = amortise.points_of(TEACHER, chunks, key, state.network.scale)
        state, info = amortise.update(state, points, config)
        return state, info["loss"]

    state = amortise.init(jax.random.key(2), SPEC, config, TEACHER, states(0, 500))
    state, _ = jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(1500)))(state)
    return state


def test_the_gradient_is_reproduced_on_held_out_states(distilled):
    points = amortise.points_of(TEACHER, chunks_of(5, 400), jax.random.key(9), distilled.network.scale)
    exact = CURVATURE * (np.sin(3 * np.asarray(points.observations)) - np.asarray(points.estimates))
    predicted = np.asarray(distilled.network(points.observations, points.estimates))
    assert np.linalg.norm(predicted - exact) / np.linalg.norm(exact) < 0.05
    info = amortise.evaluate(distilled, points)
    assert float(info["relative_error"]) < 0.05
    assert float(info["cosine"]) > 0.99


def test_it_steers_as_the_critic_does_at_the_same_weight(distilled):
    models, keys = TEACHER._replace(amortised=distilled.network), jax.random.split(jax.random.key(3), 200)
    plain, exact, amortised = (
        np.asarray(sample(keys, states(2, 200), models, recipe(name, **changes), flat=2).actions)
        for name, changes in (("bc", {}), ("qgf", {"weight": 0.03}), ("qgf_amortised", {"weight": 0.03}))
    )
    # The mean distance to the critic's choice is a small part of what guidance moves.
    assert np.abs(amortised - exact).mean() < 0.1 * np.abs(exact - plain).mean()


TASKS = ("reach", "reach-far")


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """A run folder with a policy and the critics of two tasks."""
    folder = tmp_path_factory.mktemp("amortise") / "run"
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


def config_of(run, **changes):
    base = TrainConfig(
        data="", run=run, learn="amortised", updates=40, batch=8, log_every=10, call_updates=5,
        amortised=AmortiseConfig(hidden=(12, 12)),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def weights(run, task="reach"):
    return (run / "amortised" / task / "tensors.safetensors").read_bytes()


def test_a_run_is_distilled_task_by_task_or_all_at_once(copy, small_data, tmp_path):
    policy = Policy.load(copy / "policy")
    train(config_of(copy))
    for task in TASKS:
        critic, amortised = Critic.load(copy / "critic" / task), AmortisedGuidance.load(copy / "amortised" / task)
        amortised.require_fits(policy, critic, "min")
        assert amortised.task == task
        observations, a = jnp.asarray(small_data.train.observations[:5]), jnp.zeros((5, 4))
        seen = (observations - critic.normaliser.mean) / critic.normaliser.std
        np.testing.assert_allclose(amortised.gradient(observations, a), amortised.network(seen, a), rtol=1e-6)
    rows = read_lines(copy / "metrics.jsonl")
    mine = [row for row in rows if row["learner"].startswith("amortised/")]
    assert {(row["learner"], row["split"]) for row in mine} == {
        (f"amortised/{task}", split) for task in TASKS for split in ("train", "val")
    }
    assert all({"loss", "relative_error", "cosine"} <= row.keys() for row in mine)
    assert [r["step"] for r in mine if (r["learner"], r["split"]) == ("amortised/reach", "train")] == [10, 20, 30, 40]
    # The other learners' rows stay.
    assert {row["learner"] for row in rows} > {"policy", "critic/reach"}
    alone = shutil.copytree(copy, tmp_path / "alone")
    shutil.rmtree(alone / "amortised")
    shutil.rmtree(alone / "checkpoints")
    train(config_of(alone, tasks=("reach",)))
    for x, y in zip(
        *(jax.tree.leaves(AmortisedGuidance.load(r / "amortised/reach").network) for r in (copy, alone)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_running_again_reuses_more_updates_continue_and_anything_else_begins_anew(copy, tmp_path):
    train(config_of(copy, tasks=("reach",)))
    first, written = weights(copy), (copy / "amortised/reach/meta.json").stat().st_mtime_ns
    train(config_of(copy, tasks=("reach",)))
    assert (copy / "amortised/reach/meta.json").stat().st_mtime_ns == written
    train(config_of(copy, tasks=("reach",), updates=80))
    whole = shutil.copytree(copy, tmp_path / "whole")
    shutil.rmtree(whole / "amortised")
    shutil.rmtree(whole / "checkpoints")
    train(config_of(whole, tasks=("reach",), updates=80))
    assert weights(copy) == weights(whole) != first
    # Other settings, and another critic, replace what is there.
    train(config_of(copy, tasks=("reach",), amortised=AmortiseConfig(hidden=(12, 12), aggregate="mean")))
    assert AmortisedGuidance.load(copy / "amortised/reach").meta["aggregate"] == "mean"
    shutil.rmtree(copy / "critic/reach")
    shutil.copytree(copy / "critic/reach-far", copy / "critic/reach")
    train(config_of(copy, tasks=("reach",)))
    assert AmortisedGuidance.load(copy / "amortised/reach").meta["aggregate"] == "min"
    assert weights(copy) != first


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from steerflow.learn.config import *
    from steerflow.learn.train import train
    train(TrainConfig(data="", run=Path(sys.argv[1]), learn="amortised", tasks=("reach",), updates=int(sys.argv[2]), batch=8,
        log_every=100, call_updates=50, save_seconds=0, amortised=AmortiseConfig(hidden=(12, 12))))
""")


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
    assert weights(copy) == weights(other)
    mine = [[row for row in read_lines(f / "metrics.jsonl") if "amortised" in row["learner"]] for f in (copy, other)]
    assert mine[0] == mine[1]


def test_what_cannot_be_distilled_is_said(copy, tmp_path):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'reach'.*train critic"):
        train(config_of(copy, tasks=("raech",)))
    with pytest.raises(SteerflowError, match="There is no run folder"):
        train(config_of(tmp_path / "nothing"))
    with pytest.raises(SteerflowError, match="seed-N"):
        train(config_of(copy, seeds=(0, 1)))
    (copy / "config.toml").write_text("")
    with pytest.raises(SteerflowError, match="Give --data NAME"):
        train(config_of(copy))
    shutil.rmtree(copy / "critic")
    with pytest.raises(SteerflowError, match="holds no critic to distil"):
        train(config_of(copy))


def test_critics_of_different_sizes_are_distilled_one_by_one(copy):
    critic = Critic.load(copy / "critic/reach")
    wide = CriticNetworks(Critics(jax.random.key(0), 3, 4, (20,), 2), Value(jax.random.key(0), 3, (20,)))
    meta = {**critic.meta, "task": "reach-far", "network": {"hidden": [20], "ensemble": 2}}
    Critic(critic.spec, critic.normaliser, wide, meta).save(copy / "critic/reach-far")
    with pytest.raises(MismatchError, match="differ in size; distil them one by one, with --task"):
        train(config_of(copy))
