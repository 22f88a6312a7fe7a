"""What a decision costs: operations, network calls and milliseconds; measured once and kept with the machine's name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerflow.artefact import package_versions, read_json, write_json
from steerflow.evaluate.arms import Arm
from steerflow.machine import machine

if TYPE_CHECKING:
    from steerflow.critic import Critic
    from steerflow.steer.actor import Actor

_FILE = "costs.json"
# One decision, and as many as a batch of simulations or robots asks for.
BATCHES = (1, 64)
# Calls of a batch that are timed: at most so many, and for so long, but no fewer than the least.
_MOST, _LEAST, _SECONDS = 200, 20, 1.0


class Costs:
    """What decisions cost with the networks of some runs, kept in ``RUN/evaluations/costs.json``.

    Measured once for each recipe and size of networks, in whichever of the runs; again on another machine or version.
    """

    def __init__(self, runs: Iterable[Path]) -> None:
        self.machine, self.versions = machine(), package_versions()
        self._entries = {run: self._read(run / "evaluations" / _FILE) for run in runs}

    def of(self, arm: Arm, run: Path) -> dict[str, Any]:
        """The cost of the arm's decisions, measured if it is not known: ``gflop`` and network ``calls`` of one, and the
        ``ms`` of a call with 1 and with 64 observations, {"1": {"median": .., "p95": ..}, "64": ..}."""
        about = _about(arm)
        for entry in (entry for entries in self._entries.values() for entry in entries):
            if entry["of"] == about:
                return entry["cost"]
        cost = _measured(arm)
        self._entries[run].append({"of": about, "cost": cost})
        known = {"machine": self.machine, "versions": self.versions, "costs": self._entries[run]}
        write_json(run / "evaluations" / _FILE, known)
        return cost

    def _read(self, path: Path) -> list[dict[str, Any]]:
        known = read_json(path) if path.exists() else {}
        same = (known.get("machine"), known.get("versions")) == (self.machine, self.versions)
        return list(known["costs"]) if same else []


def _about(arm: Arm) -> dict[str, Any]:
    """What the cost depends on: the recipe without its weight, and the sizes of the networks that it asks."""
    import jax

    def sizes(artefact: Any) -> str:
        return " ".join("x".join(map(str, np.shape(x))) for x in jax.tree.leaves(artefact.network))

    asked = {"policy": arm.policy, "critic": _critic(arm), **arm.parts}
    networks = {name: sizes(one) for name, one in asked.items() if one is not None}
    return json.loads(json.dumps({"recipe": arm.recipe.structure().to_json(), "networks": networks}))


def _critic(arm: Arm) -> Critic | None:
    """None where nothing asks it: behaviour cloning would else compute Q for its diagnostics."""
    return arm.critic if "critic" in arm.recipe.asks else None


def _measured(arm: Arm) -> dict[str, Any]:
    from steerflow.steer.actor import Actor

    actor = Actor(arm.policy, _critic(arm), arm.recipe.structure(), arm.parts)
    times = {str(batch): _milliseconds(actor, batch) for batch in BATCHES}
    return {"gflop": actor.flops / 1e9, "calls": actor.calls, "ms": times}


def _milliseconds(actor: Actor, batch: int) -> dict[str, float]:
    """Of calls with so many observations, from numpy to numpy, after the first ones."""
    import jax

    observations = np.random.default_rng(0).normal(size=(batch, actor.spec.observation_dim)).astype(np.float32)
    key = jax.random.key(0)
    for _ in range(3):
        actor(key, observations, 0.0)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < _MOST and (len(times) < _LEAST or time.perf_counter() - begin < _SECONDS):
        start = time.perf_counter()
        actor(key, observations, 0.0)
        times.append(1e3 * (time.perf_counter() - start))
    median, high = np.quantile(times, [0.5, 0.95])
    return {"median": round(float(median), 4), "p95": round(float(high), 4)}
