"""What training hands to steering: a network, with what it needs to be used and what is known of its making."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax

from steerflow.artefact import read_artefact, write_artefact
from steerflow.errors import ArtefactError
from steerflow.learn.tensors import from_tensors, to_tensors
from steerflow.spec import Normaliser, Spec

Network = TypeVar("Network")


@dataclass(frozen=True)
class Trained(ABC, Generic[Network]):
    """A policy, a critic or a part. ``network`` sees observations as ``normaliser`` scales them."""

    spec: Spec
    normaliser: Normaliser
    network: Network
    meta: dict[str, Any]

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is, as in its folder's meta data: "policy", "critic", or the kind of a part."""

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these weights."""
        return str(self.meta.get("sha256", "unsaved"))[:16]

    @property
    def scales(self) -> dict[str, float]:
        """Measured on the training data when training ended, for schedules: a policy's "deviation" (``measure_deviation``), a
        critic's "gradient", "steepness" and "spread" (``measure_scales``); one of an earlier version has fewer or none."""
        return dict(self.meta.get("scales", {}))

    def save(self, folder: Path | str) -> None:
        """Write it to ``folder``, whole or not at all: network and normaliser as tensors, the rest as meta data."""
        tensors = to_tensors(self.network)
        tensors["normaliser.mean"], tensors["normaliser.std"] = self.normaliser.mean, self.normaliser.std
        write_artefact(Path(folder), self.kind, tensors, {**self.meta, "spec": self.spec.to_json()})


def load_trained(folder: Path | str, networks: Mapping[str, Callable[..., Network]]) -> dict[str, Any]:
    """The fields of the artefact in ``folder``, which must be of one of the kinds in ``networks``.

    ``networks[kind](key, observation_dim, flat_dim, **settings)`` makes a network of the kind; the settings are the artefact's
    own. Raises ArtefactError if it is missing, damaged or of another kind.
    """
    tensors, meta = read_artefact(Path(folder), *networks)
    spec = Spec.from_json(meta["spec"])
    normaliser = Normaliser(tensors.pop("normaliser.mean"), tensors.pop("normaliser.std"))
    make = networks[meta["kind"]]
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in meta["network"].items()}
    try:
        shape = jax.eval_shape(lambda: make(jax.random.key(0), spec.observation_dim, spec.flat_dim, **settings))
    except TypeError as error:
        raise ArtefactError(
            f"The {meta['kind']} at {folder} has network settings that this version does not know ({error}). "
            "Train it again, or use the version that made it."
        ) from error
    network = from_tensors(shape, tensors, f"the {meta['kind']} at {folder}")
    return {"spec": spec, "normaliser": normaliser, "network": network, "meta": meta}
