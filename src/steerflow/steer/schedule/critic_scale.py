from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class CriticScale:
    """``w(t) = weight / |g|_data``, with the root mean square over the training data of the critic's gradient, per dimension.

    One number for a critic, measured when it was trained: rows with a small gradient are steered less than others, as with a
    constant weight, but rewards may be counted in any unit.
    """

    def __call__(self, models, weight, t, v, g):
        return jnp.asarray(weight, g.dtype) / models.scale("gradient")


@dataclass(frozen=True)
class Steepness:
    """``w(t) = weight / |g|_steep``: the same with the size of the critic's gradient where actions matter.

    That is the mean over the training data of the gradient's norm, in which each state counts the square of its gradient
    (``critic.measure_scales``). A task with many goals has steep places everywhere, one with a single goal has few; how steep
    they are, and so how far guidance may go there, differs less than the mean square over all states.
    """

    def __call__(self, models, weight, t, v, g):
        return jnp.asarray(weight, g.dtype) / models.scale("steepness")


@dataclass(frozen=True)
class Variance:
    """``w(t) = weight sigma^2 / |g|_steep``: the same, times the variance of the reference policy's actions in a state.

    A Gaussian policy of variance ``sigma^2`` that is tilted by ``exp(beta Q)`` moves by ``beta sigma^2 dQ/da``; here ``beta`` is
    ``weight / |g|_steep``. So a policy that is sure of its actions is moved little, and one that is not far
    (``policy.measure_deviation``).
    """

    def __call__(self, models, weight, t, v, g):
        return jnp.asarray(weight, g.dtype) * (models.scale("deviation") ** 2 / models.scale("steepness"))


@dataclass(frozen=True)
class Spread:
    """``w(t) = weight / std(Q)``, with the spread of ``Q(s, a) - V(s)`` over the training data, that is over samples of the
    reference policy.

    The weight's unit is action per deviation of Q among the actions that the policy takes anyway.
    """

    def __call__(self, models, weight, t, v, g):
        return jnp.asarray(weight, g.dtype) / models.scale("spread")
