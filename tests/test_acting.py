"""Acting fast is acting the same: the networks' acting form, what is skipped, what is dispatched, what is kept on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parts_for_tests import plain_mlp
from steerflow.compiled import keep_compiled
from steerflow.critic import Critic, CriticNetworks
from steerflow.learn.networks import MLP, Critics, Value, Velocity
from steerflow.policy import Policy
from steerflow.spec import Normaliser, Spec
from steerflow.steer.acting import ActingCritics, acting_form, centred
from steerflow.steer.actor import Actor, steer
from steerflow.steer.aggregate import AGGREGATES, Min
from steerflow.steer.models import Models
from steerflow.steer.presets import recipe
from steerflow.steer.sample import sample

SPEC = Spec(4, 2, 3, (-0.5, -2.0), (0.5, 2.0))
HIDDEN = (16, 16, 16)
rng = np.random.default_rng(0)
OBSERVATIONS, CHUNKS = rng.normal(size=(9, 4)).astype(np.float32), rng.uniform(-1, 1, (9, 6)).astype(np.float32)
INPUTS = jnp.asarray(OBSERVATIONS), jnp.asarray(CHUNKS)


def shaken(tree, seed=0):
    """The same tree with parameters that are nowhere 0 or 1."""
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(0.3 * noise.normal(size=x.shape), x.dtype), tree)


@pytest.fixture(scope="module")
def parts():
    velocity = shaken(Velocity(jax.random.key(0), 4, 6, HIDDEN, 100.0))
    critics = shaken(Critics(jax.random.key(1), 4, 6, HIDDEN, 2))
    networks = CriticNetworks(critics, Value(jax.random.key(2), 4, HIDDEN))
    normaliser, settings = Normaliser.identity(4), {"hidden": list(HIDDEN)}
    policy = Policy(SPEC, normaliser, velocity, {"network": settings | {"time_frequency": 100.0}})
    return policy, Critic(SPEC, normaliser, networks, {"network": settings | {"ensemble": 2}, "task": "reach"})


def plain_q(critics, observations, a):
    inputs = np.concatenate([observations, a], axis=-1).astype(np.float64)
    return np.stack([plain_mlp(critics.members, inputs, e)[:, 0] for e in range(2)])


def test_the_acting_form_is_the_same_function(parts):
    policy, critic = parts
    v = acting_form(policy.network)(*INPUTS, 0.3)
    w = 100.0 ** (1 - np.arange(8) / 8)
    time = np.tile(np.concatenate([np.cos(0.3 * w), np.sin(0.3 * w)]), (9, 1))
    inputs = np.concatenate([OBSERVATIONS, CHUNKS, time], axis=-1)
    np.testing.assert_allclose(v, plain_mlp(policy.network.body, inputs), rtol=2e-4, atol=2e-4)
    acting = ActingCritics.of(critic.network.critics)
    q = plain_q(critic.network.critics, OBSERVATIONS, CHUNKS)
    np.testing.assert_allclose(acting(*INPUTS), q, rtol=1e-4, atol=1e-4)
    # Layer norms that come last have no layer before them to fold into: left as they are.
    last = MLP(jax.random.key(0), 4, (8,), 2, order="norm_last")
    np.testing.assert_array_equal(centred(last)(INPUTS[0]), last(INPUTS[0]))


@pytest.mark.parametrize("name", list(AGGREGATES))
def test_gradients_of_the_acting_form_against_finite_differences(parts, name):
    critics, aggregate = parts[1].network.critics, AGGREGATES.parse(name)
    acting = ActingCritics.of(critics)
    g = Models(lambda *_: None, lambda o, a: aggregate(acting(o, a))).q_gradient(*INPUTS)
    slope, h = np.zeros((9, 6)), 1e-5
    for d in range(6):
        e = np.eye(6)[d] * h
        up, down = (np.asarray(plain_q(critics, OBSERVATIONS, CHUNKS + s * e)) for s in (1, -1))
        choose = {"min": lambda q: q.min(0), "first": lambda q: q[0], "mean": lambda q: q.mean(0)}.get(
            name, lambda q: q.mean(0) - q.std(0)
        )
        slope[:, d] = (choose(up) - choose(down)) / (2 * h)
    np.testing.assert_allclose(g, slope, rtol=2e-3, atol=2e-3)


def test_a_row_alone_in_a_batch_and_under_vmap_has_the_same_gradient(parts):
    """At batch 1 only one critic is differentiated; in this batch both are smallest somewhere."""
    acting = ActingCritics.of(parts[1].network.critics)
    assert len(set(np.asarray(acting(*INPUTS)).argmin(axis=0))) == 2
    gradient = jax.jit(Models(lambda *_: None, lambda o, a: Min()(acting(o, a))).q_gradient)
    together = gradient(*INPUTS)
    alone = [gradient(*(x[n : n + 1] for x in INPUTS))[0] for n in range(9)]
    mapped = jax.vmap(gradient)(*(x[:, None] for x in INPUTS))[:, 0]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mapped, together, rtol=1e-5, atol=1e-6)


def counted(chosen, weight=0.3, batch=2):
    """Actions, and how often the velocity and the gradient were computed while the compiled function ran."""
    counts = {"velocity": 0, "gradient": 0}

    class Counting(Models):
        def q_gradient(self, observations, a):
            jax.debug.callback(lambda: counts.update(gradient=counts["gradient"] + 1))
            return super().q_gradient(observations, a)

    def velocity(observations, a, t):
        jax.debug.callback(lambda: counts.update(velocity=counts["velocity"] + 1))
        return jnp.sin(3 * t) - a + observations[:, :1]

    models = Counting(velocity, lambda o, a: -jnp.sum((a - 0.3) ** 4, axis=-1))
    keys = jax.random.split(jax.random.key(0), batch)
    run = jax.jit(lambda k, o: sample(k, o, models, chosen, flat=2, weight=weight))
    result = run(keys, jnp.asarray(OBSERVATIONS[:batch]))
    jax.effects_barrier()
    return result, counts


def by_hand(start, asked, steps=10, weight=0.3):
    """Guided Euler in float64; ``asked(k, t)``: "new", "kept" or "none". Returns actions and the mean norm of new gradients."""
    a, g, norms = np.asarray(start, np.float64), None, []
    for k in range(steps):
        t = k / steps
        v = np.sin(3 * t) - a + OBSERVATIONS[: len(a), :1].astype(np.float64)
        how = asked(k, t)
        if how == "new":
            g = -4 * (np.clip(a + (1 - t) * v, -1, 1) - 0.3) ** 3
            norms.append(np.linalg.norm(g, axis=-1))
        a = a + (v + (0 if how == "none" else weight * g)) / steps
    return np.clip(a, -1, 1), np.mean(norms, axis=0)


@pytest.mark.parametrize(
    ("changes", "asked", "gradients"),
    [
        ({}, lambda k, t: "new", 10),
        ({"schedule": "window(start=0.5)"}, lambda k, t: "new" if t >= 0.5 else "none", 5),
        ({"schedule": "window(start=0.2, stop=0.6)"}, lambda k, t: "new" if 0.2 <= t < 0.6 else "none", 4),
        ({"guide_every": 2}, lambda k, t: "kept" if k % 2 else "new", 5),
        ({"guide_every": 3}, lambda k, t: "kept" if k % 3 else "new", 4),
        (
            {"guide_every": 2, "schedule": "window(start=0.3, stop=0.8)"},
            lambda k, t: "none" if not 0.3 <= t < 0.8 else "kept" if (k - 3) % 2 else "new",
            3,
        ),
    ],
)
def test_guidance_is_asked_only_where_it_acts_and_is_due(changes, asked, gradients):
    chosen = recipe("qgf", **changes)
    got, counts = counted(chosen)
    assert counts == {"velocity": 10, "gradient": gradients}
    starts = jax.vmap(lambda key: jax.random.split(key, 2)[1])(jax.random.split(jax.random.key(0), 2))
    expected, norms = by_hand(jax.vmap(lambda key: jax.random.normal(key, (2,)))(starts), asked)
    np.testing.assert_allclose(got.actions, expected, atol=2e-6)
    np.testing.assert_allclose(got.gradient_norm, norms, rtol=1e-4)


def test_a_window_that_begins_within_a_step_is_seen_by_its_later_stages():
    chosen = recipe("qgf", solver="heun", steps=2, schedule="window(start=0.5)")
    # Stages at 0, 0.5, 0.5 and 1, of which the last is outside: a window ends before its stop.
    assert counted(chosen)[1]["gradient"] == 2


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({"schedule": "window(start=0.5)"}, {"velocity": 10, "q_gradient": 5, "q": 1}),
        ({"guide_every": 2}, {"velocity": 10, "q_gradient": 5, "q": 1}),
        ({"guide_every": 2, "steps": 5, "candidates": 3}, {"velocity": 15, "q_gradient": 9, "q": 3}),
    ],
)
def test_calls_counts_what_is_asked(parts, changes, calls):
    assert {k: n for k, n in steer(*parts, "qgf", **changes).calls.items() if n} == calls


@pytest.mark.parametrize("changes", [{"guide_every": 2}, {"schedule": "window(start=0.5)"}, {"aggregate": "first"}])
def test_weight_zero_is_the_reference_policy_and_files_keep_the_change(parts, changes):
    chosen = recipe("qgf", weight=0.0, **changes)
    plain = Actor(*parts, recipe("bc"))(jax.random.key(0), OBSERVATIONS)[0]
    np.testing.assert_array_equal(Actor(*parts, chosen)(jax.random.key(0), OBSERVATIONS)[0], plain)
    assert type(chosen).from_json(chosen.to_json()) == chosen
    assert "guide_every" not in recipe("qgf").to_json()


def test_one_critic_alone_leaves_the_other_out_of_the_program(parts):
    def products(aggregate):
        actor = steer(*parts, "qgf", aggregate=aggregate)
        weights = np.zeros(1, np.float32)
        lowered = actor._act.lower(actor._parameters, jax.random.key(0), OBSERVATIONS[:1], weights)
        return lowered.compile().as_text().count(" dot(")

    assert products("first") < products("mean")


def test_one_compilation_and_one_dispatch_for_each_action(parts, monkeypatch):
    """After the first call nothing is compiled, and a call runs one compiled program: no key is split outside of it."""
    actor = steer(*parts, "qgf")
    key = jax.random.key(0)
    actor(key, OBSERVATIONS[0])
    with jax.no_tracing():
        for n in range(3):
            actor(key, OBSERVATIONS[n], weight=0.1 * n)
    assert actor._act._cache_size() == 1
    actor.rows(np.arange(3), np.zeros(3), OBSERVATIONS[:3], np.zeros(3))
    with jax.no_tracing():
        actor.rows(np.arange(9), np.ones(9), OBSERVATIONS, np.ones(9))
    assert actor._act_rows._cache_size() == 1


PROGRAM = """
import sys
import numpy as np
import steerflow
policy, critic = steerflow.load_policy(sys.argv[1] + "/policy"), steerflow.load_critic(sys.argv[1] + "/critic")
act = steerflow.steer(policy, critic, "qgf", weight=0.4)
actions, info = act.rows(np.arange(9), np.arange(9), np.linspace(-1, 1, 36).reshape(9, 4), np.full(9, 0.4))
print(actions.tobytes().hex(), info["q"].tobytes().hex())
"""


def test_a_second_process_finds_the_program_and_acts_the_same_bit_for_bit(parts, tmp_path):
    for part, name in zip(parts, ("policy", "critic"), strict=True):
        part.save(tmp_path / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run(**more):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    entries = lambda: sorted(p.name for p in (tmp_path / "cache/steerflow/compiled").glob("*-cache"))  # noqa: E731
    first = run()
    kept = entries()
    assert any("_trace_rows" in name for name in kept)
    assert run() == first
    assert entries() == kept
    # Off, and where the folder cannot be made: nothing is kept, and all works.
    assert run(STEERFLOW_KEEP_COMPILED="0", XDG_CACHE_HOME=str(tmp_path / "none")) == first
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    assert run(XDG_CACHE_HOME=str(tmp_path / "file")) == first


def test_a_folder_that_was_chosen_through_jax_stays(monkeypatch):
    assert keep_compiled() == Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert keep_compiled() == Path(jax.config.jax_compilation_cache_dir)
