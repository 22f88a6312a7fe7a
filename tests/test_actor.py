"""Acting with artefacts: batches, blocks, bounds, errors."""

from __future__ import annotations

import dataclasses
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parts_for_tests import STD
from parts_for_tests import velocity as gaussian_velocity
from steerflow.cli.evaluate import Evaluate
from steerflow.critic import Critic, CriticNetworks, measure_scales
from steerflow.errors import ArtefactError, DataError, MismatchError, SteerflowError, UnknownNameError
from steerflow.learn.networks import Critics, Value, Velocity
from steerflow.learn.part_networks import AmortisedGradient
from steerflow.part import NETWORKS, Part
from steerflow.policy import Policy, measure_deviation
from steerflow.spec import Normaliser, Spec
from steerflow.steer.actor import Actor, steer
from steerflow.steer.functions import steer_functions
from steerflow.steer.presets import PRESETS, recipe

SPEC = Spec(4, 2, 3, (-0.5, -2.0), (0.5, 2.0))
HIDDEN = (16, 16)


@pytest.fixture(scope="module")
def parts():
    normaliser = Normaliser(np.full(4, 0.1, np.float32), np.full(4, 2.0, np.float32))
    velocity = Velocity(jax.random.key(0), 4, 6, HIDDEN, 100.0)
    critics = CriticNetworks(Critics(jax.random.key(1), 4, 6, HIDDEN, 2), Value(jax.random.key(2), 4, HIDDEN))
    network = {"hidden": list(HIDDEN), "time_frequency": 100.0}
    policy = Policy(SPEC, normaliser, velocity, {"network": network, "scales": {"deviation": 0.5}})
    meta = {"task": "reach", "network": {"hidden": list(HIDDEN), "ensemble": 2}}
    meta["scales"] = {"gradient": 2.0, "steepness": 4.0, "spread": 1.0}
    return policy, Critic(SPEC, Normaliser.identity(4), critics, meta)


@pytest.fixture(scope="module")
def amortised():
    network = AmortisedGradient(jax.random.key(3), 4, 6, (8, 8), 2.5)
    meta = {
        "kind": "amortised",
        "task": "reach",
        "aggregate": "min",
        "policy": "unsaved",
        "critic": "unsaved",
        "network": {"hidden": [8, 8]},
    }
    return Part(SPEC, Normaliser(np.full(4, 0.3, np.float32), np.ones(4, np.float32)), network, meta)


@pytest.fixture(scope="module")
def every(amortised):
    """Parts of every kind with random weights."""
    settings = {
        "robust": {"time_frequency": 100.0},
        "optimal": {"time_frequency": 100.0},
        "latent": {"noise_scale": 1.0},
    }
    made = {"amortised": amortised}
    for kind, more in settings.items():
        network = NETWORKS[kind](jax.random.key(4), 4, 6, hidden=(8, 8), **more)
        meta = amortised.meta | {"kind": kind, "network": {"hidden": [8, 8], **more}}
        made[kind] = Part(SPEC, amortised.normaliser, network, meta)
    return made


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


def test_a_saved_part_acts_as_before_and_without_a_critic(parts, amortised, tmp_path):
    amortised.save(tmp_path / "amortised")
    loaded = Part.load(tmp_path / "amortised")
    actors = [steer(parts[0], None, "qgf_amortised", parts=[one]) for one in (amortised, loaded)]
    (actions, info), (again, _) = (actor(jax.random.key(3), OBSERVATIONS) for actor in actors)
    np.testing.assert_array_equal(actions, again)
    assert np.isnan(info["q"]).all()
    assert (info["gradient_norm"] > 0).all()
    assert len(loaded.fingerprint) == 16
    with_critic, told = steer(*parts, "qgf_amortised", parts=[amortised])(jax.random.key(3), OBSERVATIONS)
    np.testing.assert_allclose(with_critic, actions, atol=1e-6)
    assert np.isfinite(told["q"]).all()


def test_amortised_guidance_is_the_networks_prediction_in_the_critics_unit(parts, amortised):
    """One Euler step from the noise: ``a + v + w scale body((s - mean) / std, clip(a + v, -1, 1))``."""
    policy, weight = parts[0], 0.3
    actor = steer(policy, None, "qgf_amortised", parts=[amortised], steps=1, weight=weight)
    path = actor.paths(SEEDS, OBSERVATIONS, np.full(37, weight))
    a = jnp.asarray(path[0])
    v = np.asarray(policy.velocity(jnp.asarray(OBSERVATIONS), a, 0.0))
    inputs = np.concatenate([OBSERVATIONS - 0.3, np.clip(path[0] + v, -1, 1)], axis=1)
    expected = path[0] + v + weight * 2.5 * np.asarray(amortised.network.body(jnp.asarray(inputs)))
    np.testing.assert_allclose(path[1], expected, atol=1e-5)


def test_a_part_of_another_policy_or_critic_is_refused(parts, amortised, tmp_path):
    policy, critic = parts
    with pytest.raises(MismatchError, match="steerflow train amortised"):
        steer(policy, critic, "qgf_amortised")
    other = dataclasses.replace(amortised, meta={**amortised.meta, "policy": "b" * 16})
    with pytest.raises(MismatchError, match=r"from the policy b+, not from unsaved.*steerflow train amortised"):
        steer(policy, None, "qgf_amortised", parts=[other])
    other = dataclasses.replace(amortised, meta={**amortised.meta, "critic": "c" * 16})
    with pytest.raises(MismatchError, match=r"from the critic c+"):
        steer(policy, critic, "qgf_amortised", parts=[other])
    # Without the critic nothing contradicts it; and what asks none is not disturbed by it.
    steer(policy, None, "qgf_amortised", parts=[other])
    steer(policy, critic, "qgf", parts=[other])
    with pytest.raises(
        MismatchError, match=r"critics' min, but the recipe's aggregate is mean.*--amortised.aggregate 'mean'"
    ):
        steer(policy, None, "qgf_amortised", parts=[amortised], aggregate="mean")
    other = dataclasses.replace(amortised, spec=dataclasses.replace(SPEC, chunk=5))
    with pytest.raises(MismatchError, match="chunk: 3 against 5"):
        steer(policy, None, "qgf_amortised", parts=[other])
    policy.save(tmp_path / "policy")
    with pytest.raises(ArtefactError, match=r"holds: policy\. Needed here: amortised"):
        Part.load(tmp_path / "policy")
    dataclasses.replace(policy, meta={"network": {"hiden": [16, 16]}}).save(tmp_path / "policy")
    with pytest.raises(ArtefactError, match="settings that this version does not know"):
        Policy.load(tmp_path / "policy")
    with pytest.raises(UnknownNameError, match="Did you mean 'amortised'"):
        Part.load(tmp_path / "policy", "amortized")
    with pytest.raises(SteerflowError, match="two amortised parts"):
        steer(policy, None, "qgf_amortised", parts=[amortised, amortised])


def test_saving_twice_writes_the_same_bytes_and_replaces_whole(parts, tmp_path):
    for folder in ("a", "b"):
        parts[0].save(tmp_path / folder)
    parts[0].save(tmp_path / "a")
    for name in ("tensors.safetensors", "meta.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "method", ["bc", "qgf", "best_of_n", "qgf_best_of_n", "qgf_amortised", "robust_q", "cfgrl", "dsrl"]
)
def test_batched_rows_equal_rows_alone_bit_for_bit(parts, every, method):
    actor = Actor(*parts, recipe(method), every)
    actions, info = actor.rows(SEEDS, DECISIONS, OBSERVATIONS, WEIGHTS)
    assert actions.shape == (37, 3, 2)
    assert all(len(x) == 37 for x in info.values())
    for rows in (slice(5, 6), slice(30, 37), [20, 3, 11]):
        alone, alone_info = actor.rows(SEEDS[rows], DECISIONS[rows], OBSERVATIONS[rows], WEIGHTS[rows])
        np.testing.assert_array_equal(alone, actions[rows])
        for name, x in alone_info.items():
            np.testing.assert_array_equal(x, info[name][rows])


@pytest.mark.parametrize("method", ["qgf", "qgf_amortised", "robust_q", "cfgrl"])
def test_weight_zero_equals_behaviour_cloning_bit_for_bit(parts, every, method):
    guided = Actor(*parts, recipe(method), every).rows(SEEDS, DECISIONS, OBSERVATIONS, 0 * WEIGHTS)[0]
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
        ("qgf", {"schedule": "window(start=0.5)"}, {"velocity": 10, "q_gradient": 5, "q": 1}),
        ("qgf_jacobian", {"steps": 3}, {"velocity": 6, "q_gradient": 3, "q": 1}),
        # 3 steps, and from the k-th on another 3 - k.
        ("bptt", {"steps": 3}, {"velocity": 3 + 6, "q_gradient": 3, "q": 1}),
        ("qgf_chain", {"steps": 3}, {"velocity": 3 + 6, "q_gradient": 3, "q": 1}),
        ("qgf_consensus", {"steps": 3}, {"velocity": 3, "q_gradient": 3, "q": 1}),
        ("grad_step", {"steps": 3}, {"velocity": 3, "q_gradient": 3, "q": 1}),
        # Two steps of three, with four samples in two inner steps each.
        ("qpilots_m", {"steps": 3}, {"velocity": 3 + 2 * 4 * 2, "q_gradient": 2 * 4, "q": 1}),
        ("best_of_n", {"candidates": 4}, {"velocity": 40, "q_gradient": 0, "q": 4}),
        ("qgf_best_of_n", {"candidates": 4}, {"velocity": 40, "q_gradient": 40, "q": 4}),
        ("qgf_amortised", {}, {"velocity": 10, "q_gradient": 0, "q": 1, "amortised": 10}),
        ("robust_q", {}, {"velocity": 10, "q_gradient": 0, "q": 1, "robust": 10}),
        ("cfgrl", {}, {"velocity": 10, "q_gradient": 0, "q": 1, "optimal": 20}),
        ("dsrl", {}, {"velocity": 10, "q_gradient": 0, "q": 1, "latent": 1}),
    ],
)
def test_network_calls_are_counted(parts, every, method, changes, calls):
    assert Actor(*parts, recipe(method, **changes), every).calls == calls


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


def test_the_preset_default_is_what_is_done_where_no_method_is_named():
    for where in (steer, Evaluate):
        assert PRESETS[signature(where).parameters["method"].default] is PRESETS["default"]


def test_every_preset_acts(parts, every):
    for name in PRESETS:
        act = Actor(*parts, recipe(name), every)
        actions, _ = act(jax.random.key(0), OBSERVATIONS[:4])
        assert np.isfinite(actions).all()
        act = Actor(*parts, recipe(name, steps=2), every)
        assert act.calls["velocity"] >= act.recipe.steps * act.recipe.candidates


def test_a_chunk_goes_on_from_committed_actions(parts):
    act, key = steer(*parts, "qgf", weight=0.0), jax.random.key(5)
    committed = np.tile(np.asarray([[0.2, -1.0], [0.1, 0.5]], np.float32), (37, 1, 1))
    free, _ = act(key, OBSERVATIONS)
    continued, _ = act(key, OBSERVATIONS, committed=committed, delay=2)
    error = lambda chunks: np.abs(chunks[:, :2] - committed).mean()  # noqa: E731
    assert error(continued) < 0.5 * error(free)
    single, _ = act(key, OBSERVATIONS[0], committed=committed[0], delay=1)
    assert single.shape == (3, 2)
    # Nothing committed: the reference policy as it is.
    none, _ = act(key, OBSERVATIONS, committed=committed[:, :0])
    np.testing.assert_allclose(none, free, atol=1e-6)
    with pytest.raises(MismatchError, match="up to 3 steps"):
        act(key, OBSERVATIONS, committed=committed[:5])
    with pytest.raises(MismatchError, match="delay is 3"):
        act(key, OBSERVATIONS, committed=committed, delay=3)
    with pytest.raises(DataError, match="not finite"):
        act(key, OBSERVATIONS, committed=committed * np.nan)


def test_a_schedule_without_the_scales_it_asks_says_how_to_get_them(parts):
    policy, critic = parts
    for which, kind in enumerate(("policy", "critic")):
        both = [*parts]
        both[which] = dataclasses.replace(both[which], meta={**both[which].meta, "scales": {}})
        with pytest.raises(MismatchError, match=f"steerflow train {kind}"):
            steer(*both)(jax.random.key(0), OBSERVATIONS)
    units = (
        ((), 4.0 / 0.5**2, "qgf_jacobian"),
        (("qgf_jacobian_scaled",), 4.0, "qgf_jacobian"),
        (("qgf_scaled",), 2.0, "qgf"),
    )
    for scaled, unit, plain in units:
        found, _ = steer(policy, critic, *scaled, weight=0.5)(jax.random.key(0), OBSERVATIONS)
        expected, _ = steer(policy, critic, plain, weight=0.5 / unit)(jax.random.key(0), OBSERVATIONS)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_critics_scales_by_finite_differences(parts):
    critic = parts[1].network
    rng = np.random.default_rng(1)
    states, chunks = rng.normal(size=(20, 4)), rng.uniform(-1, 1, (20, 6))
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), critic)
        q = lambda a: np.asarray(double.critics(jnp.asarray(states), jnp.asarray(a))).mean(axis=0)  # noqa: E731
        slope = [(q(chunks + e) - q(chunks - e)) / 2e-5 for e in np.eye(6) * 1e-5]
        spread = np.std(q(chunks) - np.asarray(double.value(jnp.asarray(states))))
    data = states.astype(np.float32), chunks.astype(np.float32)
    found = measure_scales(critic.critics, *data, critic.value)
    assert found["gradient"] == pytest.approx(np.sqrt(np.mean(np.square(slope))), rel=1e-4)
    size = np.sqrt(np.mean(np.square(slope), axis=0))
    assert found["steepness"] == pytest.approx(np.average(size, weights=size**2), rel=1e-4)
    assert found["spread"] == pytest.approx(spread, rel=1e-4)
    # One function of all critics' mean measures the same, and knows no value.
    assert measure_scales(lambda s, a: critic.critics(s, a).mean(axis=0), *data) == pytest.approx(
        {name: found[name] for name in ("gradient", "steepness")}, rel=1e-5
    )
    with pytest.raises(MismatchError, match="not finite"):
        measure_scales(lambda s, a: a.sum(axis=1) * np.nan, *data)


def test_the_deviation_of_a_gaussian_policy():
    states = np.linspace(-1, 1, 3000, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    # Euler's map of the noise is linear: its slope, in float64. No action is clipped.
    slope = 1.0
    for t in np.arange(10) / 10:
        slope *= 1 + 0.1 * (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2)
    found = measure_deviation(gaussian_velocity, states, flat=2)
    assert found == pytest.approx(slope, rel=0.02)
    assert measure_scales(lambda s, a: a.sum(axis=1), states, states, velocity=gaussian_velocity)["deviation"] == found
    with pytest.raises(MismatchError, match="not finite"):
        measure_deviation(lambda s, a, t: a * np.nan, states, flat=2)


def test_plain_functions_take_the_default_for_all_tasks_with_scales_of_their_own():
    velocity = lambda s, a, t: 0.3 * jnp.sin(a) - 2 * a  # noqa: E731
    states, chunks = (np.random.default_rng(2).uniform(-1, 1, s).astype(np.float32) for s in ((30, 4), (30, 6)))

    def act(unit):
        q = lambda s, a: -unit * jnp.sum((a - 0.4) ** 2, axis=1)  # noqa: E731
        scales = measure_scales(q, states, chunks, velocity=velocity)
        steered = steer_functions(velocity, q, "default", flat=6, scales=scales)
        return steered(jax.random.key(0), states).actions

    # Rewards counted in another unit change nothing.
    np.testing.assert_allclose(act(1.0), act(250.0), atol=1e-5)
    np.testing.assert_allclose(act(1.0), act(1e14), atol=1e-5)
    with pytest.raises(MismatchError, match="measure_scales"):
        steer_functions(velocity, lambda s, a: -jnp.sum(a, axis=1), "default", flat=6)(jax.random.key(0), states)


def test_the_first_critics_of_an_ensemble_are_critics(parts):
    _, critic = parts
    one, observations, a = critic.first(1), jnp.asarray(OBSERVATIONS[:4]), jnp.zeros((4, critic.spec.flat_dim))
    np.testing.assert_allclose(one.q(observations, a), critic.q(observations, a)[:1], rtol=1e-6)
    np.testing.assert_array_equal(one.value(observations), critic.value(observations))
    assert (one.ensemble, critic.ensemble) == (1, 2)
    assert one.fingerprint == critic.first(1).fingerprint != critic.fingerprint
    assert critic.first(2) is critic
    for count in (0, 3):
        with pytest.raises(SteerflowError, match="ensemble of 2"):
            critic.first(count)
