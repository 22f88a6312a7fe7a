"""Sampling and guidance against closed forms, finite differences and diffrax."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steerflow.errors import MismatchError, SteerflowError, UnknownNameError
from steerflow.steer.actor import steer_functions
from steerflow.steer.aggregate import AGGREGATES, MeanMinusStd, Min
from steerflow.steer.guidance import GUIDANCES, Noisy, OneStep, Total
from steerflow.steer.models import Models
from steerflow.steer.presets import PRESETS, recipe
from steerflow.steer.recipe import Recipe
from steerflow.steer.sample import sample
from steerflow.steer.schedule import SCHEDULES
from steerflow.steer.select import SELECTS
from steerflow.steer.solver import SOLVERS

STD = 0.3


def gaussian_velocity(observations, a, t):
    """The exact velocity of the straight path from N(0, 1) to N(mean(s), STD^2): E[a_1 - a_0 | a_t = a]."""
    mean = observations
    variance = (1 - t) ** 2 + t**2 * STD**2
    return mean + (t * STD**2 - (1 - t)) / variance * (a - t * mean)


def quadratic_q(target, curvature):
    return lambda observations, a: -0.5 * curvature * jnp.sum((a - target) ** 2, axis=-1)


def exact_gradient(q):
    """What an amortised guidance predicts, without error."""
    return lambda observations, a: jax.grad(lambda x: jnp.sum(q(observations, x)))(a)


def keys_of(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


MODELS = Models(gaussian_velocity, quadratic_q(0.2, 1.5), {"amortised": exact_gradient(quadratic_q(0.2, 1.5))})
OBSERVATIONS = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, (64, 2)), jnp.float32)


def affine_endpoint(solver, weight, steps, mean, target, curvature):
    """(slope, offset) of the guided endpoint as a function of the noise, by plain float64 numpy.

    Velocity and QGF's gradient are affine in ``a`` while nothing is clipped, so each solver's map is affine: follow it for
    the noises 0 and 1.
    """

    def field(a, t):
        v = float(mean) + (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2) * (a - t * float(mean))
        return v + weight * -curvature * (a + (1 - t) * v - target)

    def run(a):
        dt = 1 / steps
        for k in range(steps):
            t = k * dt
            k1 = field(a, t)
            if solver == "euler":
                a = a + dt * k1
            elif solver == "midpoint":
                a = a + dt * field(a + dt / 2 * k1, t + dt / 2)
            elif solver == "heun":
                a = a + dt / 2 * (k1 + field(a + dt * k1, t + dt))
            else:
                k2 = field(a + dt / 2 * k1, t + dt / 2)
                k3 = field(a + dt / 2 * k2, t + dt / 2)
                a = a + dt / 6 * (k1 + 2 * k2 + 2 * k3 + field(a + dt * k3, t + dt))
        return a

    return run(1.0) - run(0.0), run(0.0)


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_guided_gaussian_flow_has_the_closed_form_endpoint(solver, weight):
    # Small noise and targets keep everything inside [-1, 1], where the field is affine.
    chosen = recipe("qgf", weight=weight, solver=solver, noise="gaussian(scale=0.2)")
    got = sample(keys_of(64), OBSERVATIONS, MODELS, chosen, flat=2, keep_path=True)
    noise = np.asarray(got.path[0], np.float64)
    for row in range(64):
        for d in range(2):
            slope, offset = affine_endpoint(solver, weight, 10, OBSERVATIONS[row, d], 0.2, 1.5)
            assert got.actions[row, d] == pytest.approx(slope * noise[row, d] + offset, abs=3e-6)
    assert float(jnp.max(got.clipped_fraction)) == 0


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_endpoint_distribution_of_a_gaussian_flow(weight):
    """Mean and deviation over many noises match the affine map's, and for weight 0 those of the data."""
    observations = jnp.full((20_000, 1), 0.1)
    chosen = recipe("qgf", weight=weight, steps=100)
    models = Models(gaussian_velocity, quadratic_q(0.3, 2.0))
    got = np.asarray(sample(keys_of(20_000), observations, models, chosen, flat=1, keep_path=True).path[-1])
    if weight == 0:
        # The Euler endpoint is within 1/steps of the data's N(0.1, STD^2).
        assert got.mean() == pytest.approx(0.1, abs=0.01)
        assert got.std() == pytest.approx(STD, abs=0.02)
    else:
        # Estimates beyond the bounds are clipped, so the map is affine only for most noises: steering moves the mean
        # towards the target and narrows the spread.
        slope, offset = affine_endpoint("euler", weight, 100, 0.1, 0.3, 2.0)
        assert got.mean() == pytest.approx(offset, abs=0.01)
        assert got.std() == pytest.approx(abs(slope), abs=0.02)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solvers_converge_with_their_order_to_diffrax_solution(name, order):
    with jax.enable_x64(True):
        a0 = jnp.asarray([0.7, -0.4], jnp.float64)

        def field(a, t):
            return jnp.sin(3 * t) * a[::-1] - 0.5 * a**3 + jnp.cos(a + t)

        reference = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, a, _: field(a, t)), diffrax.Dopri8(), 0.0, 1.0, 0.01, a0,
            stepsize_controller=diffrax.PIDController(rtol=1e-13, atol=1e-13),
        ).ys[-1]  # fmt: skip
        solver = SOLVERS.parse(name)
        errors = []
        for steps in (20, 40):
            a = a0[None]
            for k in range(steps):
                a = solver(lambda x, t: jax.vmap(lambda row: field(row, t))(x), a, k / steps, 1 / steps)
            errors.append(float(jnp.abs(a[0] - reference).max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def rough_q(observations, a):
    return jnp.sin(2 * a).sum(-1) * jnp.cos(observations).sum(-1) + (a**3).sum(-1) / 3


@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_guidance_equals_finite_differences_in_float64(t):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        observations, a = (jnp.asarray(rng.uniform(-0.4, 0.4, (5, 2)), jnp.float64) for _ in range(2))
        models = Models(gaussian_velocity, rough_q)
        time = jnp.asarray(t, jnp.float64)
        v = models.velocity(observations, a, time)
        estimate = np.clip(a + (1 - t) * np.asarray(v), -1, 1)

        def difference(point):
            h, slope = 1e-6, np.zeros((5, 2))
            for d in range(2):
                e = np.eye(2)[d] * h
                slope[:, d] = (rough_q(observations, point + e) - rough_q(observations, point - e)) / (2 * h)
            return slope

        one_step = OneStep()(models, observations, a, time, v)
        noisy = Noisy()(models, observations, a, time, v)
        total = Total((("one_step", 1.0), ("noisy", -0.5)))(models, observations, a, time, v)
        np.testing.assert_allclose(one_step, difference(estimate), atol=1e-8)
        np.testing.assert_allclose(noisy, difference(np.asarray(a)), atol=1e-8)
        np.testing.assert_allclose(total, one_step - 0.5 * noisy, atol=1e-12)


def test_one_step_guidance_does_not_see_the_clip():
    """Dimensions whose estimate is clipped keep the gradient at the clipped point; a Jacobian would zero it."""
    observations, a = jnp.zeros((1, 2)), jnp.asarray([[0.0, 0.0]])
    models = Models(lambda o, x, t: jnp.asarray([[5.0, 0.1]]), quadratic_q(-2.0, 1.0))
    g = OneStep()(models, observations, a, jnp.asarray(0.0), models.velocity(observations, a, 0.0))
    np.testing.assert_allclose(g, [[-3.0, -2.1]], rtol=1e-6)


@pytest.mark.parametrize(
    "name", [n for n in GUIDANCES if n != "sum"] + ['sum(terms=(("one_step", 1.0), ("noisy", 0.3)))']
)
class TestGuidanceContract:
    def call(self, name, rows=slice(None)):
        guidance = GUIDANCES.parse(name)
        rng = np.random.default_rng(2)
        observations, a = (jnp.asarray(rng.uniform(-1, 1, (6, 2)), jnp.float32)[rows] for _ in range(2))
        models = Models(gaussian_velocity, rough_q, {"amortised": exact_gradient(rough_q)})
        t = jnp.asarray(0.3)
        f = jax.jit(lambda o, x: guidance(models, o, x, t, models.velocity(o, x, t)))
        return f(observations, a)

    def test_shape_dtype_determinism_and_row_independence(self, name):
        g = self.call(name)
        assert g.shape == (6, 2)
        assert g.dtype == jnp.float32
        np.testing.assert_array_equal(g, self.call(name))
        np.testing.assert_allclose(g[2:4], self.call(name, slice(2, 4)), rtol=1e-6)

    def test_finite_at_the_bounds(self, name):
        guidance = GUIDANCES.parse(name)
        models = Models(gaussian_velocity, rough_q, {"amortised": exact_gradient(rough_q)})
        for value in (-1.0, 1.0):
            a = jnp.full((2, 2), value)
            for t in (0.0, 1.0):
                v = models.velocity(a, a, jnp.asarray(t))
                assert np.isfinite(guidance(models, a, a, jnp.asarray(t), v)).all()

    def test_weight_zero_is_plain_sampling_bit_for_bit(self, name):
        plain = sample(keys_of(64), OBSERVATIONS, MODELS, Recipe(), flat=2)
        for schedule in ("constant", "normalised", "window(start=0.2)", "ramp"):
            chosen = Recipe(guidance=name, weight=0.0, schedule=schedule)
            got = sample(keys_of(64), OBSERVATIONS, MODELS, chosen, flat=2)
            np.testing.assert_array_equal(got.actions, plain.actions)

    def test_written_and_read_again_it_is_the_same(self, name):
        chosen = Recipe(guidance=name, weight=0.3)
        assert Recipe.from_json(chosen.to_json()) == chosen


def test_an_amortised_gradient_without_error_steers_as_qgf_does():
    for weight in (0.1, 1.0):
        exact, amortised = (
            sample(keys_of(64), OBSERVATIONS, MODELS, recipe(name, weight=weight), flat=2).actions
            for name in ("qgf", "qgf_amortised")
        )
        np.testing.assert_allclose(amortised, exact, atol=1e-6)


def test_a_recipe_asks_what_its_members_ask():
    assert recipe("bc").asks == frozenset()
    assert recipe("qgf").asks == {"critic"}
    assert recipe("qgf_amortised").asks == {"amortised"}
    assert recipe("qgf_amortised", candidates=4, select="best_of_n").asks == {"critic", "amortised"}
    assert Recipe(guidance=Total((("amortised", 1.0), ("noisy", 0.5)))).asks == {"critic", "amortised"}


def test_schedules():
    v, g = jnp.asarray([[3.0, 4.0], [0.0, 1.0]]), jnp.asarray([[0.0, 2.0], [0.0, 0.0]])
    at = lambda name, t: np.broadcast_to(SCHEDULES.parse(name)(0.5, jnp.asarray(t), v, g), 2)  # noqa: E731
    np.testing.assert_allclose(at("constant", 0.9), 0.5)
    np.testing.assert_allclose(
        [at("window(start=0.2, stop=0.6)", t)[0] for t in (0.1, 0.2, 0.5, 0.6)], [0, 0.5, 0.5, 0]
    )
    np.testing.assert_allclose([at("ramp(first=1.0, last=0.0)", t)[0] for t in (0.0, 0.5, 1.0)], [0.5, 0.25, 0])
    # |v| / |g| = 2.5 in the first row; the second row's gradient is zero and must not divide.
    np.testing.assert_allclose(at("normalised", 0.3), [0.5 * 2.5, 0.5])


def test_normalised_guidance_is_free_of_the_critics_scale():
    def run(scale):
        models = Models(gaussian_velocity, lambda o, a: scale * rough_q(o, a))
        return sample(keys_of(64), OBSERVATIONS, models, recipe("qgf_normalised"), flat=2).actions

    np.testing.assert_allclose(run(1.0), run(1000.0), atol=1e-5)


def test_a_weight_may_be_a_function_of_time_or_differ_by_row():
    by_function = sample(
        keys_of(64), OBSERVATIONS, MODELS, Recipe(guidance="one_step", weight=lambda t: 0.5 * t), flat=2
    )
    by_ramp = sample(
        keys_of(64), OBSERVATIONS, MODELS, Recipe(guidance="one_step", weight=0.5, schedule="ramp"), flat=2
    )
    np.testing.assert_allclose(by_function.actions, by_ramp.actions, atol=1e-6)
    weights = jnp.linspace(0, 1, 64)
    mixed = sample(keys_of(64), OBSERVATIONS, MODELS, recipe("qgf"), flat=2, weight=weights)
    alone = sample(keys_of(64), OBSERVATIONS, MODELS, recipe("qgf", weight=float(weights[40])), flat=2)
    np.testing.assert_allclose(mixed.actions[40], alone.actions[40], atol=1e-6)


def test_selects():
    q = jnp.asarray([0.1, 2.0, -1.0])
    assert int(SELECTS.parse("first")(jax.random.key(0), q)) == 0
    assert int(SELECTS.parse("best_of_n")(jax.random.key(0), q)) == 1
    keys = keys_of(4000)
    drawn = jax.vmap(lambda key: SELECTS.parse("softmax(temperature=2.0)")(key, q))(keys)
    expected = np.exp(np.asarray(q) / 2) / np.exp(np.asarray(q) / 2).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, expected, atol=0.03)
    assert int(SELECTS.parse("softmax(temperature=0)")(jax.random.key(0), q)) == 1


def test_best_of_n_returns_the_candidate_of_highest_q():
    chosen = Recipe(candidates=8, select="best_of_n")
    got = sample(keys_of(64), OBSERVATIONS, MODELS, chosen, flat=2)
    keys = jax.vmap(lambda key: jax.random.split(key, 9))(keys_of(64))
    for row in range(0, 64, 9):
        every = []
        for n in range(8):
            noise = jax.random.normal(keys[row, 1 + n], (2,))
            a = noise[None]
            for k in range(10):
                a = a + gaussian_velocity(OBSERVATIONS[row : row + 1], a, k / 10) / 10
            every.append(np.clip(a[0], -1, 1))
        q = np.asarray(MODELS.q(None, jnp.asarray(np.stack(every))))
        np.testing.assert_allclose(got.actions[row], every[int(np.argmax(q))], atol=1e-5)
        assert float(got.q[row]) == pytest.approx(q.max(), abs=1e-5)


def test_aggregates_against_numpy():
    q = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_allclose(Min()(q), q.min(0))
    np.testing.assert_allclose(AGGREGATES.parse("mean")(q), q.mean(0), rtol=1e-6)
    np.testing.assert_allclose(MeanMinusStd(0.7)(q), q.mean(0) - 0.7 * q.std(0), rtol=1e-5)
    same = jnp.ones((3, 2))
    gradient = jax.grad(lambda x: MeanMinusStd()(x).sum())(same)
    assert np.isfinite(gradient).all()


def test_any_time_grid_works():
    fine = sample(keys_of(64), OBSERVATIONS, MODELS, Recipe(solver="rk4", steps=50), flat=2, keep_path=True)
    uneven = Recipe(solver="rk4", times=(0.0, 0.05, 0.2, 0.3, 0.45, 0.5, 0.65, 0.8, 0.9, 0.97, 1.0))
    got = sample(keys_of(64), OBSERVATIONS, MODELS, uneven, flat=2, keep_path=True)
    np.testing.assert_allclose(got.path[-1], fine.path[-1], atol=2e-3)


def test_plain_functions_are_enough():
    act = steer_functions(
        gaussian_velocity, lambda o, a: jnp.stack([rough_q(o, a), rough_q(o, a) - 1]), "qgf", flat=2, weight=0.2
    )
    got = act(jax.random.key(0), OBSERVATIONS)
    assert got.actions.shape == (64, 2)
    np.testing.assert_allclose(got.q, rough_q(OBSERVATIONS, got.actions) - 1, rtol=1e-4, atol=1e-5)
    with pytest.raises(MismatchError, match="asks a critic"):
        steer_functions(gaussian_velocity, None, "qgf", flat=2)
    act = steer_functions(
        gaussian_velocity, None, "qgf_amortised", flat=2, parts={"amortised": exact_gradient(rough_q)}
    )
    assert np.isnan(act(jax.random.key(0), OBSERVATIONS).q).all()
    with pytest.raises(MismatchError, match="asks the part 'amortised'"):
        steer_functions(gaussian_velocity, rough_q, "qgf_amortised", flat=2)


def test_unknown_names_and_settings_are_answered():
    with pytest.raises(UnknownNameError, match="Did you mean 'qgf'"):
        recipe("qgff")
    with pytest.raises(UnknownNameError, match="Did you mean 'midpoint'"):
        Recipe(solver="midpiont")
    with pytest.raises(UnknownNameError, match="Did you mean 'weight'"):
        recipe("qgf", wieght=0.1)
    with pytest.raises(UnknownNameError, match="Did you mean 'start'"):
        Recipe(schedule="window(strat=0.1)")
    with pytest.raises(SteerflowError, match="Write window"):
        Recipe(schedule="window(start=")
    with pytest.raises(SteerflowError, match="rise from 0 to 1"):
        Recipe(times=(0.0, 0.5, 0.4, 1.0))
    with pytest.raises(SteerflowError, match="finite"):
        recipe("qgf", weight=float("nan"))


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_sample_within_bounds_and_survive_a_file(name):
    got = sample(keys_of(64), OBSERVATIONS, MODELS, PRESETS[name], flat=2)
    assert np.abs(got.actions).max() <= 1
    assert Recipe.from_json(PRESETS[name].to_json()) == PRESETS[name]
