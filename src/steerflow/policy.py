"""The policy artefact: a velocity field and what it needs to be used, ``RUN/policy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from steerflow.artefact import read_artefact, write_artefact
from steerflow.learn.networks import Velocity
from steerflow.learn.tensors import from_tensors, to_tensors
from steerflow.spec import Normaliser, Spec


@dataclass(frozen=True)
class Policy:
    """A reference flow policy, trained by behaviour cloning.

    ``velocity(observations, a, t)`` takes observations (batch, observation) in the data's units and chunks ``a``
    (batch, chunk * action) scaled to [-1, 1]; flow time t: 0 = noise, 1 = action.
    """

    spec: Spec
    normaliser: Normaliser
    network: Velocity
    meta: dict[str, Any]

    def velocity(self, observations, a, t):
        return self.network(self.normaliser(observations), a, t)

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these weights."""
        return str(self.meta.get("sha256", "unsaved"))[:16]

    def save(self, folder: Path | str) -> None:
        save_network(Path(folder), "policy", self)

    @staticmethod
    def load(folder: Path | str) -> Policy:
        """Load from a folder; raises ArtefactError if it is missing, damaged or no policy."""
        tensors, meta, spec, normaliser = read_network(Path(folder), "policy")
        settings = meta["network"]
        hidden = tuple(settings["hidden"])
        shape = jax.eval_shape(
            lambda: Velocity(jax.random.key(0), spec.observation_dim, spec.flat_dim, hidden, settings["time_frequency"])
        )
        return Policy(spec, normaliser, from_tensors(shape, tensors, f"the policy at {folder}"), meta)


def save_network(folder: Path, kind: str, artefact: Any) -> None:
    """Write a policy or critic: its network and normaliser as tensors, the rest as meta data."""
    tensors = to_tensors(artefact.network)
    tensors["normaliser.mean"], tensors["normaliser.std"] = artefact.normaliser.mean, artefact.normaliser.std
    write_artefact(folder, kind, tensors, {**artefact.meta, "spec": artefact.spec.to_json()})


def read_network(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any], Spec, Normaliser]:
    """(network tensors, meta data, spec, normaliser) of a policy or critic."""
    tensors, meta = read_artefact(folder, kind)
    normaliser = Normaliser(tensors.pop("normaliser.mean"), tensors.pop("normaliser.std"))
    return tensors, meta, Spec.from_json(meta["spec"]), normaliser
