"""Intervals: Wilson for success rates, paired by episode for differences, interquartile mean for aggregates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Interval = tuple[float, float]


def wilson(successes: int, episodes: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate; (0, 1) without episodes."""
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes.")
    if episodes == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(successes, episodes).proportion_ci(level, method="wilson")
    # Rounding can leave an end of 1e-17 or 1 - 1e-16 where it is exactly 0 or 1.
    return max(0.0, float(found.low)) if successes else 0.0, min(
        1.0, float(found.high)
    ) if successes < episodes else 1.0


def mean_interval(values: Sequence[float], level: float = 0.95, resamples: int = 4000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of a mean; equal seeds give equal intervals."""
    data = np.asarray(values, np.float64)
    return percentiles(data[_draws(len(data), resamples, seed)].mean(axis=1), level)


def mean_entry(name: str, values: np.ndarray, resamples: int = 1000) -> dict[str, float]:
    """A mean with the ends of ``mean_interval``, as entries of a table: ``name``, ``name_low`` and ``name_high``."""
    low, high = mean_interval(values.tolist(), resamples=resamples)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


@dataclass(frozen=True)
class PairedDifference:
    """Success (or return) of arm a minus arm b on the episodes that both have run."""

    episodes: int
    difference: float
    ci_low: float
    ci_high: float
    # Episodes on which a is better, and on which b is.
    wins: int
    losses: int
    # Exact McNemar test of "both are equally often better": the sign test on the episodes in which they differ.
    p: float


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], level: float = 0.95, resamples: int = 4000, seed: int = 0
) -> PairedDifference:
    """Compare two arms, each given as outcome (1 or 0 for success, or a return) by episode seed.

    The interval is the percentile bootstrap over episodes. It has no width where the arms never differ; p is then 1.
    Raises ValueError when they share no episode.
    """
    from scipy.stats import binomtest

    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("The two arms share no episode.")
    differences = np.array([float(a[k]) - float(b[k]) for k in shared])
    low, high = mean_interval(differences.tolist(), level, resamples, seed)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p = float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0
    return PairedDifference(len(shared), float(differences.mean()), low, high, wins, losses, p)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the scores along the last axis: less noisy than the median, less swayed by outliers than the
    mean.

    Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", arXiv 2108.13264.
    """
    from scipy.stats import trim_mean

    return trim_mean(np.asarray(scores, np.float64), 0.25, axis=-1)


def resampled_means(outcomes: Mapping[str, np.ndarray], resamples: int = 2000, seed: int = 0) -> dict[str, np.ndarray]:
    """For each task the runs' mean outcomes in bootstrap resamples (resamples, runs), of outcomes (runs, episodes).

    Tasks are strata. Within a task its runs are drawn anew, and so are its episodes, which all its runs share. n runs drawn
    from n differ less from each other than runs of the world do, in variance by (n - 1) / n, a half with two: so a drawn run's
    distance from their mean is stretched by sqrt(n / (n - 1)), within the range of all outcomes. A run's own spread holds that
    of its episodes too, so where runs do not differ the intervals err on the wide side; where few differ much, on the narrow
    one still, as a variance known from two or three is. With one run it is the spread of the episodes alone. Equal names and
    shapes are drawn alike, so that means of two arms belong together; the tasks' order does not matter.
    """
    found = {}
    for number, (task, values) in enumerate(sorted(outcomes.items())):
        values = np.asarray(values, np.float64)
        runs, episodes = values.shape
        rng = np.random.default_rng([seed, number])
        share = rng.multinomial(episodes, np.full(episodes, 1 / episodes), resamples) / episodes
        of_run = values.mean(axis=1)
        stretched = of_run.mean() + (of_run - of_run.mean()) * np.sqrt(runs / max(runs - 1, 1))
        means = share @ values.T + (stretched - of_run)
        drawn = np.take_along_axis(means, rng.integers(0, runs, (resamples, runs)), axis=1)
        found[task] = np.clip(drawn, values.min(), values.max())
    return found


def mean_over_tasks(means: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of means by task, each (resamples, runs): the mean in each resample, all tasks counting alike."""
    return np.mean([x.mean(axis=1) for x in means.values()], axis=0)


def percentiles(estimates: np.ndarray, level: float = 0.95) -> Interval:
    """The middle ``level`` of bootstrap estimates."""
    # Without what sums of rounded numbers leave of an end that is 0.
    low, high = np.round(np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2]), 12) + 0.0
    return float(low), float(high)


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    if count == 0:
        raise ValueError("An interval needs at least one value.")
    return np.random.default_rng(seed).integers(0, count, (resamples, count))
