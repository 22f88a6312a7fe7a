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
    # The same with the weight in the critic's own unit.
    "qgf_scaled": Recipe(guidance="one_step", weight=0.17, schedule="critic_scale"),
    # Q-Guided Flow for fast decisions: half the steps, the gradient of one critic.
    "fast": Recipe(guidance="one_step", weight=0.1, steps=5, aggregate="first"),
    # With the derivative of the estimate, in one product; and of the whole way to the action.
    "qgf_jacobian": Recipe(guidance="jacobian", weight=0.1),
    "bptt": Recipe(guidance="bptt", weight=0.1),
    # With the derivative, in the critic's own unit; and in units of the policy and the critic: one number for many tasks, and
    # what is used where no method is named.
    "qgf_jacobian_scaled": Recipe(guidance="jacobian", weight=1.8, schedule="steepness"),
    "qgf_jacobian_variance": Recipe(guidance="jacobian", weight=75.0, schedule="variance"),
    # The critic's gradient at the end of the whole way, its derivative left out.
    "qgf_chain": Recipe(guidance="chain", weight=0.1),
    # Ascent on Q after the flow: three steps (PA-RL, QGF's paper), and one (OPEX, arXiv 2406.09329).
    "grad_step": Recipe(refine="grad_step", weight=0.03),
    "opex": Recipe(refine="grad_step(steps=1)", weight=0.1),
    # QPILOTS, arXiv 2606.14801: a step of the velocity's norm times the weight, none at t = 0, pessimistic critics; the gradient
    # through the estimate (U), or over samples of the actions to which the noise may lead (M).
    "qpilots_u": Recipe(
        guidance="jacobian", weight=0.2, schedule="normalised(start=0.01)", aggregate="mean_minus_std(k=0.5)"
    ),
    "qpilots_m": Recipe(
        guidance="posterior", weight=0.2, schedule="normalised(start=0.01)", aggregate="mean_minus_std(k=0.5)"
    ),
    # The policy tilted by exp(weight Q): its exact guidance, over samples of the actions to which the noise may lead.
    "tilted": Recipe(guidance="posterior(temperature=None)", weight=0.1, schedule="tilt"),
    # Q-Guided Flow that steers less where critics disagree.
    "qgf_consensus": Recipe(guidance="consensus", weight=0.1),
    # The critic's gradient at the noisy action.
    "qfql": Recipe(guidance="noisy", weight=0.1),
    # Behaviour cloning, best of 16 by the critic.
    "best_of_n": Recipe(candidates=16, select="best_of_n"),
    # Q-Guided Flow, best of 4 by the critic.
    "qgf_best_of_n": Recipe(guidance="one_step", weight=0.1, candidates=4, select="best_of_n"),
    # Q-Guided Flow with the critic's gradient predicted by a small network: steerflow train amortised.
    "qgf_amortised": Recipe(guidance="amortised", weight=0.1),
    # The gradient of a critic that was trained on noisy actions, RobustQ: steerflow train robust.
    "robust_q": Recipe(guidance="robust", weight=0.1),
    # Classifier-free guidance by the actions of positive advantage, arXiv 2505.23458: steerflow train optimal.
    "cfgrl": Recipe(guidance="cfg", weight=3.0),
    # The same with Q-Guided Flow's gradient beside it.
    "cfgrl_qgf": Recipe(guidance='sum(terms=(("cfg", 1.0), ("one_step", 0.1)))', weight=0.75),
    # Starts of the flow that a learnt actor chooses, DSRL: steerflow train latent.
    "dsrl": Recipe(noise="latent"),
    # Q-Guided Flow whose step is a fraction of the velocity's norm, whatever the critic's scale.
    "qgf_normalised": Recipe(guidance="one_step", weight=0.15, schedule="normalised"),
}
# What `steer` and `evaluate` do where no method is named, as it is: sweeps and comparisons do not tune it.
PRESETS["default"] = PRESETS["qgf_jacobian_variance"]


def recipe(method: str | Recipe, **changes: Any) -> Recipe:
    """The recipe of a method, with changes: ``recipe("qgf", weight=0.06, steps=20)``."""
    if isinstance(method, Recipe):
        return method.replace(**changes)
    if method not in PRESETS:
        raise unknown("method", method, PRESETS)
    return PRESETS[method].replace(**changes)
