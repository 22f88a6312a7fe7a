"""Operations counted from compiled programs, against counts by hand and the ratios of the method's authors' setting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steerflow.critic import Critic, CriticNetworks
from steerflow.learn.networks import Critics, Value, Velocity
from steerflow.policy import Policy
from steerflow.spec import Normaliser, Spec
from steerflow.steer.actor import Actor
from steerflow.steer.cost import count_flops, without_loops
from steerflow.steer.presets import recipe

OBSERVATION, FLAT = 40, 25
SPEC = Spec(OBSERVATION, 5, 5, (-1.0,) * 5, (1.0,) * 5)
SMALL, LARGE = (256,) * 4, (1024,) * 4


def networks(hidden):
    key, normaliser = jax.random.key(0), Normaliser.identity(OBSERVATION)
    pair = CriticNetworks(Critics(key, OBSERVATION, FLAT, hidden, 2), Value(key, OBSERVATION, hidden))
    return (
        Policy(SPEC, normaliser, Velocity(key, OBSERVATION, FLAT, hidden, 100.0), {}),
        Critic(SPEC, normaliser, pair, {}),
    )


def products(hidden, inputs, outputs):
    """2 * in * out for each layer: the operations of a network's matrix products, for one row."""
    widths = (inputs, *hidden, outputs)
    return 2 * sum(i * o for i, o in itertools.pairwise(widths))


def by_hand(hidden, velocities, critics, gradients):
    """Operations of so many passes of the velocity, of both critics, and of their gradients (forward and backward)."""
    v, q = products(hidden, OBSERVATION + FLAT + 16, FLAT), 2 * products(hidden, OBSERVATION + FLAT, 1)
    return velocities * v + critics * q + gradients * 2 * q


@pytest.fixture(scope="module")
def small():
    return networks(SMALL)


@pytest.fixture(scope="module")
def large():
    """The authors' networks, and the operations of plain sampling with them."""
    policy, critic = networks(LARGE)
    return policy, critic, Actor(policy, None, recipe("bc")).flops


# Layer norms, GELU and the like come on top: a few per cent at this width, less in wider networks.
@pytest.mark.parametrize(
    ("method", "changes", "passes"),
    [
        ("bc", {"solver": "heun", "steps": 3}, (6, 0, 0)),
        ("best_of_n", {"candidates": 4, "steps": 2}, (8, 4, 0)),
        ("qgf", {"steps": 4}, (4, 0, 4)),
        ("qgf", {"steps": 4, "schedule": "window(start=0.5)"}, (4, 0, 2)),
        ("qgf", {"steps": 4, "guide_every": 3}, (4, 0, 2)),
        ("qgf_best_of_n", {"steps": 2}, (8, 4, 8)),
    ],
)
def test_counts_agree_with_the_hand_count_of_the_products(small, method, changes, passes):
    policy, critic = small
    counted = Actor(policy, critic, recipe(method, **changes)).flops
    assert 1.0 < counted / by_hand(SMALL, *passes) < 1.08


def test_a_mean_of_critics_costs_as_much_as_their_minimum(small):
    least, mean, first = (
        Actor(*small, recipe("qgf", steps=2, aggregate=name)).flops for name in ("min", "mean", "first")
    )
    # When acting, only the critic that is the minimum is differentiated; the count is of the plain form.
    assert least == pytest.approx(mean, rel=0.01)
    assert first < 0.7 * mean


@pytest.mark.parametrize(
    ("method", "changes", "ratio"),
    [
        ("best_of_n", {"candidates": 4}, 4.8),
        ("best_of_n", {}, 19.0),
        ("qgf", {}, 5.0),
        ("grad_step", {}, 2.2),
        ("qgf_jacobian", {}, 7.0),
        pytest.param("bptt", {}, 16.0, marks=pytest.mark.slow),
    ],
)
def test_ratios_to_plain_sampling_in_the_authors_setting(large, method, changes, ratio):
    policy, critic, plain = large
    assert Actor(policy, critic, recipe(method, **changes)).flops / plain == pytest.approx(ratio, rel=0.02)


def test_loops_and_known_branches_are_written_out():
    matrix = np.ones((64, 64), np.float32)

    def powers(x, n, skip):
        """n products in a loop inside a loop, a known branch in each."""

        def turn(carry, i):
            product = jax.lax.fori_loop(0, 3, lambda _, y: y @ matrix / 64, carry)
            return jax.lax.cond(i % skip == 0, lambda: product, lambda: carry), product.sum()

        return jax.lax.scan(turn, x, jnp.arange(n))

    x = jnp.ones((64, 64))
    plain = without_loops(lambda x: powers(x, 4, 2), x)
    for ours, usual in zip(plain(x), powers(x, 4, 2), strict=True):
        np.testing.assert_allclose(ours, usual, rtol=1e-5)
    assert "scan" not in str(jax.make_jaxpr(plain)(x))
    one = 2 * 64**3
    # The products of the turns whose branch leaves the carry are not needed where their sums are not.
    assert count_flops(lambda x: powers(x, 4, 1)[0], x) == pytest.approx(12 * one, rel=0.05)
    assert count_flops(lambda x: powers(x, 4, 2)[0], x) == pytest.approx(6 * one, rel=0.05)


def test_of_unknown_branches_the_longest_counts_and_unknown_loops_are_refused():
    x = jnp.ones((32, 32))
    one = 2 * 32**3
    choice = lambda x, n: jax.lax.cond(n > 0, lambda: x @ x @ x @ x, lambda: x)  # noqa: E731
    assert count_flops(choice, x, jnp.zeros(())) == pytest.approx(3 * one, rel=0.05)
    with pytest.raises(ValueError, match="number of turns"):
        count_flops(lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: y @ x, x), x, jnp.zeros((), int))


def test_a_reversed_scan_keeps_its_order():
    steps, x = jnp.arange(1.0, 5.0), jnp.float32(2.0)
    scan = lambda x: jax.lax.scan(lambda c, s: (c * x + s, c), x, steps, reverse=True)  # noqa: E731
    for ours, usual in zip(without_loops(scan, x)(x), scan(x), strict=True):
        np.testing.assert_allclose(ours, usual)
