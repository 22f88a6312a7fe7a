"""The policy artefact: a velocity field and what it needs to be used, ``RUN/policy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steerflow.learn.networks import Velocity
from steerflow.trained import Trained, load_trained


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
