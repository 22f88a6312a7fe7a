"""Acting with artefacts: batches, blocks, bounds, errors."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steerflow.critic import Critic, CriticNetworks
from steerflow.errors import DataError, MismatchError
from steerflow.learn.networks import Critics, Value, Velocity
from steerflow.policy import Policy
from steerflow.spec import Normaliser, Spec
from steerflow.steer.actor import Actor, steer
from steerflow.steer.presets import PRESETS, recipe

SPEC = Spec(4, 2, 3, (-0.5, -2.0), (0.5, 2.0))
HIDDEN = (16, 16)


@pytest.fixture(scope="module")
def parts():
    normaliser = Normaliser(np.full(4, 0.1, np.float32), np.full(4, 2.0, np.float32))
    velocity = Velocity(jax.random.key(0), 4, 6, HIDDEN, 100.0)
    critics = CriticNetworks(Critics(jax.random.key(1), 4, 6, HIDDEN, 2), Value(jax.random.key(2), 4, HIDDEN))
    policy = Policy(SPEC, normaliser, velocity, {"network": {"hidden": list(HIDDEN), "time_frequency": 100.0}})
    meta = {"task": "reach", "network": {"hidden": list(HIDDEN), "ensemble": 2}}
    return policy, Critic(SPEC, Normaliser.identity(4), critics, meta)


OBSERVATIONS = np.random.default_rng(0).normal(size=(37, 4)).astype(np.float32)
SEEDS, DECISIONS = np.arange(37) * 1000 + 7, np.arange(37) % 5
WEIGHTS = np.linspace(0, 0.5, 37).astype(np.float32)


def test_a_saved_artefact_acts_as_before(parts, tmp_path):
    policy, critic = parts
    policy.save(tmp_path / "policy")
    critic.save(tmp_path / "critic")
    loaded = steer(Policy.load(tmp_path / "policy"), Critic.load(tmp_path / "critic"), "qgf")
    key = jax.random.key(3)
    for a, b in zip(loaded(key, OBSERVATIONS), steer(policy, critic, "qgf")(key, OBSERVATIONS), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_saving_twice_writes_the_same_bytes_and_replaces_whole(parts, tmp_path):
    for folder in ("a", "b"):
        parts[0].save(tmp_path / folder)
    parts[0].save(tmp_path / "a")
    for name in ("tensors.safetensors", "meta.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("method", ["bc", "qgf", "best_of_n", "qgf_best_of_n"])
def test_batched_rows_equal_rows_alone_bit_for_bit(parts, method):
    actor = steer(*parts, method)
    actions, info = actor.rows(SEEDS, DECISIONS, OBSERVATIONS, WEIGHTS)
    assert actions.shape == (37, 3, 2)
    assert all(len(x) == 37 for x in info.values())
    for rows in (slice(5, 6), slice(30, 37), [20, 3, 11]):
        alone, alone_info = actor.rows(SEEDS[rows], DECISIONS[rows], OBSERVATIONS[rows], WEIGHTS[rows])
        np.testing.assert_array_equal(alone, actions[rows])
        for name, x in alone_info.items():
            np.testing.assert_array_equal(x, info[name][rows])


def test_weight_zero_equals_behaviour_cloning_bit_for_bit(parts):
    guided = steer(*parts, "qgf").rows(SEEDS, DECISIONS, OBSERVATIONS, 0 * WEIGHTS)[0]
    plain = steer(*parts, "bc").rows(SEEDS, DECISIONS, OBSERVATIONS, 0 * WEIGHTS)[0]
    np.testing.assert_array_equal(guided, plain)


def test_actions_are_in_the_environments_units_and_bounds(parts):
    actions, info = steer(*parts, "qgf", weight=50.0)(jax.random.key(0), OBSERVATIONS)
    assert (np.abs(actions) <= np.asarray([0.5, 2.0])).all()
    assert (np.abs(actions[..., 1]) > 0.5).any()
    assert info["clipped_fraction"].max() > 0


def test_guidance_raises_q_of_what_the_critic_is_asked(parts):
    q = [steer(*parts, "qgf", weight=w)(jax.random.key(0), OBSERVATIONS)[1]["q"].mean() for w in (0.0, 0.1, 1.0)]
    assert q[0] < q[1] < q[2]


def test_info_q_is_the_critics_value_of_the_action(parts):
    _, critic = parts
    actor = steer(*parts, "qgf", weight=0.2)
    actions, info = actor(jax.random.key(0), OBSERVATIONS)
    scaled = (actions / np.asarray([0.5, 2.0])).reshape(37, 6)
    np.testing.assert_allclose(actor.q(OBSERVATIONS, scaled), info["q"], atol=1e-5)
    np.testing.assert_allclose(critic.q(jnp.asarray(OBSERVATIONS), jnp.asarray(scaled)).min(0), info["q"], atol=1e-5)


def test_one_observation_gives_one_chunk(parts):
    actor = steer(*parts, "qgf")
    actions, info = actor(jax.random.key(0), OBSERVATIONS[0])
    assert actions.shape == (3, 2)
    assert info["q"].shape == ()
    np.testing.assert_array_equal(actions, actor(jax.random.key(0), OBSERVATIONS[:1])[0][0])


def test_paths_lead_from_the_noise_to_the_action(parts):
    actor = steer(*parts, "qgf", weight=0.1)
    path = actor.paths(SEEDS, OBSERVATIONS, WEIGHTS)
    assert path.shape == (11, 37, 6)
    actions = actor.rows(SEEDS, 0 * DECISIONS, OBSERVATIONS, WEIGHTS)[0]
    np.testing.assert_allclose(np.clip(path[-1], -1, 1), (actions / np.asarray([0.5, 2.0])).reshape(37, 6), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "changes", "calls"),
    [
        ("bc", {}, {"velocity": 10, "q_gradient": 0, "q": 1}),
        ("qgf", {}, {"velocity": 10, "q_gradient": 10, "q": 1}),
        ("qgf", {"solver": "heun", "steps": 5}, {"velocity": 10, "q_gradient": 10, "q": 1}),
        ("best_of_n", {"candidates": 4}, {"velocity": 40, "q_gradient": 0, "q": 4}),
    ],
)
def test_network_calls_are_counted(parts, method, changes, calls):
    assert steer(*parts, method, **changes).calls == calls


def test_what_does_not_fit_is_named(parts):
    policy, critic = parts
    other = Critic(dataclasses.replace(SPEC, chunk=5), critic.normaliser, critic.network, critic.meta)
    with pytest.raises(MismatchError, match="chunk: 3 against 5"):
        steer(policy, other)
    with pytest.raises(MismatchError, match="needs \\(batch, 4\\)"):
        steer(policy, critic)(jax.random.key(0), np.zeros((2, 5)))
    bad = OBSERVATIONS.copy()
    bad[3, 2] = np.nan
    with pytest.raises(DataError, match="Observation 3 is nan in dimension 2"):
        steer(policy, critic)(jax.random.key(0), bad)
    with pytest.raises(MismatchError, match="asks a critic"):
        steer(policy, None, "qgf")
    actions, info = steer(policy, None, "bc")(jax.random.key(0), OBSERVATIONS)
    assert np.isfinite(actions).all()
    assert np.isnan(info["q"]).all()


def test_every_preset_acts(parts):
    for name in PRESETS:
        actions, _ = Actor(*parts, recipe(name))(jax.random.key(0), OBSERVATIONS[:4])
        assert np.isfinite(actions).all()
