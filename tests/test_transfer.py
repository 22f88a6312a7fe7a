"""One weight for all tasks: the choice of weights, and the study through its command."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from steerflow.analyse.transfer import choices, pooled


def test_weights_are_chosen_for_each_task_by_the_others_and_for_all():
    scores = {"a": [0.1, 0.9, 0.2, 0.0], "b": [0.0, 0.8, 0.9, 0.1], "c": [0.0, 0.1, 0.9, 0.2]}
    found = choices(scores)
    table = np.array(list(scores.values()))
    for row, name in enumerate(scores):
        others = np.delete(table, row, axis=0).mean(axis=0)
        assert found[name] == (int(table[row].argmax()), int(others.argmax()), int(table.mean(axis=0).argmax()))


def test_another_seed_of_a_setting_does_not_choose_for_it():
    scores = {
        ("a", 0): [0.1, 0.9, 0.2],
        ("a", 1): [0.0, 1.0, 0.0],
        ("b", 0): [0.8, 0.0, 0.1],
        ("c", 0): [0.0, 0.1, 0.3],
    }
    found = choices(scores, lambda key: key[0])
    # Of b and c alone; with the other seed of a the second weight would win.
    assert [found[key][1] for key in (("a", 0), ("a", 1))] == [0, 0]
    assert choices(scores)[("a", 0)][1] == 1
    assert found[("b", 0)][1] == 1


def test_of_equal_weights_the_middle_of_the_plateau_is_taken():
    assert choices({"a": [0.5, 1.0, 1.0, 1.0, 0.0], "b": [0.0] * 5})["a"][0] == 2


class Row:
    def __init__(self, success):
        self.success = success


def test_the_mean_over_tasks_and_its_interval():
    """Three episodes of one task and two of another: all resamples can be written down."""
    rows = [[Row(True), Row(False), Row(True)], [Row(False), Row(True)]]
    found = pooled(rows, resamples=200_000)
    every = [
        (np.mean(one) + np.mean(two)) / 2 for one in product([1, 0, 1], repeat=3) for two in product([0, 1], repeat=2)
    ]
    assert found["success"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["worst"] == pytest.approx(0.5)
    low, high = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((low, high), abs=0.02)
