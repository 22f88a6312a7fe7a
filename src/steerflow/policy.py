"""The policy artefact: a velocity field and what it needs to be used, ``RUN/policy``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from steerflow.errors import MismatchError
from steerflow.learn.networks import Velocity
from steerflow.steer.models import Models
from steerflow.steer.recipe import Recipe
from steerflow.steer.sample import sample
from steerflow.trained import Trained, load_trained

# Of each state, when the spread of a policy's actions is measured; and states at most, evenly over those that are given.
_NOISES = 8
_STATES = 1024


@dataclass(frozen=True)
class Policy(Trained[Velocity]):
    """A reference flow policy, trained by behaviour cloning.

    ``velocity(observations, a, t)`` takes observations (batch, observation) in the data's units and chunks ``a``
    (batch, chunk * action) scaled to [-1, 1]; flow time t: 0 = noise, 1 = action.
    """

    @property
    def kind(self) -> str:
        return "policy"

    def velocity(self, observations, a, t):
        return self.network(self.normaliser(observations), a, t)

    @staticmethod
    def load(folder: Path | str) -> Policy:
        """Load from a folder; raises ArtefactError if it is missing, damaged or no policy."""
        return Policy(**load_trained(folder, {"policy": Velocity}))


def measure_deviation(velocity: Callable[[Any, Any, Any], Any], observations, flat: int, seed: int = 0) -> float:
    """How far apart the reference policy's actions in a state are: their standard deviation over noise.

    The root mean square of ``a - E[a | s]`` over dimensions, eight noises a state, and up to 1024 of the states, evenly over
    ``observations`` as ``velocity`` takes them. Actions ``a`` (batch, flat) are sampled in 10 Euler steps, in [-1, 1]. Raises
    MismatchError where it is not a finite number.
    """
    states = np.asarray(observations)
    states = states[np.unique(np.linspace(0, len(states) - 1, _STATES).astype(np.int64))]
    keys = jax.random.split(jax.random.key(seed), len(states) * _NOISES)
    drawn = _draw(velocity, keys, jnp.repeat(states, _NOISES, axis=0), flat)
    by_state = np.asarray(drawn, np.float64).reshape(-1, _NOISES, flat)
    deviation = math.sqrt(float(np.mean(by_state.var(axis=1, ddof=1))))
    if not math.isfinite(deviation):
        raise MismatchError("The policy's actions are not finite.")
    return deviation


# Of a network the weights are an input of the program, so that all networks of a shape share it.
@eqx.filter_jit
def _draw(velocity, keys, states, flat: int):
    return sample(keys, states, Models(velocity, None), Recipe(), flat=flat).actions
