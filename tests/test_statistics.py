"""Intervals and tests against scipy, rliable and plain definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from steerflow.evaluate.statistics import (
    interquartile_mean,
    mean_interval,
    mean_over_tasks,
    paired_difference,
    percentiles,
    resampled_means,
    wilson,
)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys_and_holds_the_rate(case):
    successes, episodes = case
    low, high = wilson(successes, episodes)
    expected = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= low <= successes / episodes <= high <= 1


def test_wilson_by_hand():
    # z = 1.959964: centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
    n, p, z = 100, 0.9, 1.9599639845
    centre, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(90, 100) == pytest.approx(((centre - half) / scale, (centre + half) / scale))
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_mean_interval_agrees_with_scipy_and_is_seeded():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    low, high = mean_interval(values.tolist(), resamples=20_000)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.02)
    assert mean_interval(values.tolist(), seed=3) == mean_interval(values.tolist(), seed=3)
    assert mean_interval(values.tolist(), seed=3) != mean_interval(values.tolist(), seed=4)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_paired_difference_counts_episodes_and_tests_exactly():
    # 12 episodes only a solves, 3 only b solves, 35 both, 10 neither; b has more episodes than a.
    a = dict.fromkeys(range(12), 1.0) | dict.fromkeys(range(12, 15), 0.0)
    b = dict.fromkeys(range(12), 0.0) | dict.fromkeys(range(12, 15), 1.0)
    same = dict.fromkeys(range(15, 50), 1.0) | dict.fromkeys(range(50, 60), 0.0)
    found = paired_difference(a | same, b | same | {99: 1.0})
    assert (found.episodes, found.wins, found.losses) == (60, 12, 3)
    assert found.difference == pytest.approx(9 / 60)
    # McNemar, exact: twice the tail of a fair coin at 12 or more of 15.
    assert found.p == pytest.approx(2 * sum(binomial(15, k) for k in range(12, 16)) / 2**15)
    assert found.ci_low < 9 / 60 < found.ci_high
    assert found.ci_low > 0


def binomial(n: int, k: int) -> int:
    from math import comb

    return comb(n, k)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_paired_difference_is_antisymmetric(outcomes):
    a = {i: float(x) for i, (x, _) in enumerate(outcomes)}
    b = {i: float(y) for i, (_, y) in enumerate(outcomes)}
    one, other = paired_difference(a, b, resamples=200), paired_difference(b, a, resamples=200)
    assert one.difference == -other.difference
    assert (one.wins, one.losses, one.p) == (other.losses, other.wins, other.p)
    assert one.ci_low == pytest.approx(-other.ci_high)


def test_pairing_narrows_the_interval():
    # The same hard and easy episodes for both arms: the pairs differ little though the rates are uncertain.
    rng = np.random.default_rng(0)
    easy = rng.uniform(size=200) < 0.5
    a = {i: float(x) for i, x in enumerate(easy)}
    b = {i: float(x and i % 20 != 0) for i, x in enumerate(easy)}
    found = paired_difference(a, b)
    low, high = wilson(int(easy.sum()), 200)
    assert found.ci_high - found.ci_low < 0.5 * (high - low)


def test_arms_without_common_episodes_cannot_be_compared():
    with pytest.raises(ValueError, match="share no episode"):
        paired_difference({1: 1.0}, {2: 1.0})
    assert paired_difference({1: 1.0}, {1: 1.0}).p == 1.0


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=60))
def test_interquartile_mean_by_definition(values):
    ordered = np.sort(values)
    cut = len(values) // 4
    assert interquartile_mean(np.array(values)) == pytest.approx(ordered[cut : len(values) - cut].mean(), abs=1e-9)


def test_interquartile_mean_is_rliables():
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    scores = np.random.default_rng(0).normal(size=(10, 7))
    assert interquartile_mean(scores.ravel()) == pytest.approx(metrics.aggregate_iqm(scores))


@pytest.mark.parametrize(
    ("tasks", "deviation", "least", "most"),
    [(4, 0.0, 0.95, 1), (4, 0.1, 0.93, 0.99), (4, 0.2, 0.83, 0.93), (1, 0.1, 0.83, 0.93)],
)
def test_few_runs_that_differ_are_not_taken_for_many(tasks, deviation, least, most):
    """How often intervals hold the truth, with two runs; with runs drawn as they are the second and third are 0.90 and 0.80."""
    rng, held = np.random.default_rng(0), []
    for trial in range(300):
        middle = rng.uniform(0.35, 0.65, tasks)
        rates = np.clip(middle[:, None] + deviation * rng.normal(size=(tasks, 2)), 0, 1)
        outcomes = {str(i): (rng.random((2, 100)) < rate[:, None]).astype(float) for i, rate in enumerate(rates)}
        low, high = percentiles(mean_over_tasks(resampled_means(outcomes, resamples=400, seed=trial)))
        held.append(low <= middle.mean() <= high)
    assert least < np.mean(held) <= most


def test_resampled_runs_spread_as_runs_of_the_world():
    # Episodes alike in all runs, two of them far out, so that no drawn run lies beyond the outcomes.
    episodes = np.array([-10.0, 10.0] + 398 * [0.0])
    outcomes = np.array([[0.2], [0.5], [0.6]]) + episodes
    (drawn,) = resampled_means({"a": outcomes}, resamples=100_000).values()
    expected = outcomes.mean(axis=1).var(ddof=1) / 3 + episodes.var() / 400
    assert drawn.mean(axis=1).var() == pytest.approx(expected, rel=0.03)
    # Nor is one taken for it that does.
    same = np.repeat(np.array([[0.2], [0.5], [0.6]]), 5, axis=1)
    (drawn,) = resampled_means({"a": same}).values()
    assert (drawn.min(), drawn.max()) == pytest.approx((0.2, 0.6))
    # One run: its episodes alone.
    one = np.array([[0.0, 1.0, 1.0, 1.0]])
    (drawn,) = resampled_means({"a": one}, resamples=100_000).values()
    assert drawn.var() == pytest.approx(one.var() / 4, rel=0.05)
