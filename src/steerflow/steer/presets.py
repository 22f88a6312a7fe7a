"""Named methods: one line each, naming a combination."""

from __future__ import annotations

from typing import Any

from steerflow.errors import unknown
from steerflow.steer.recipe import Recipe

PRESETS: dict[str, Recipe] = {
    # Behaviour cloning: the reference policy as it is.
    "bc": Recipe(),
    # Q-Guided Flow, arXiv 2606.11087.
    "qgf": Recipe(guidance="one_step", weight=0.1),
    # Q-Guided Flow for fast decisions: half the steps, the gradient of one critic.
    "fast": Recipe(guidance="one_step", weight=0.1, steps=5, aggregate="first"),
    # The critic's gradient at the noisy action.
    "qfql": Recipe(guidance="noisy", weight=0.1),
    # Behaviour cloning, best of 16 by the critic.
    "best_of_n": Recipe(candidates=16, select="best_of_n"),
    # Q-Guided Flow, best of 4 by the critic.
    "qgf_best_of_n": Recipe(guidance="one_step", weight=0.1, candidates=4, select="best_of_n"),
    # Q-Guided Flow with the critic's gradient predicted by a small network: steerflow train amortised.
    "qgf_amortised": Recipe(guidance="amortised", weight=0.1),
    # Q-Guided Flow whose step is a fraction of the velocity's norm, whatever the critic's scale.
    "qgf_normalised": Recipe(guidance="one_step", weight=0.15, schedule="normalised"),
}


def recipe(method: str | Recipe, **changes: Any) -> Recipe:
    """The recipe of a method, with changes: ``recipe("qgf", weight=0.06, steps=20)``."""
    if isinstance(method, Recipe):
        return method.replace(**changes)
    if method not in PRESETS:
        raise unknown("method", method, PRESETS)
    return PRESETS[method].replace(**changes)
