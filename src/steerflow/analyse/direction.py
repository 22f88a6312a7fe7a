"""Stability of the guidance's direction: what a little noise on the noisy action does to it (QGF's figure 3).

For a state s and a noisy action a_t = (1 - t) noise + t action, the guidance g(a_t) is compared with g(a_t + scale * eps):

    cosine        mean over eps of cos(g(a_t), g(a_t + scale * eps)), 0 where one of them vanishes
    norm_spread   standard deviation over eps of |g(a_t + scale * eps)|, over their mean

A guidance that turns with every small change of a_t pushes the flow one way in one step and another way in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from steerflow.analyse.about import COMPARED
from steerflow.analyse.states import draw_pairs
from steerflow.data.store import DataSet
from steerflow.errors import SteerflowError
from steerflow.evaluate.statistics import mean_entry
from steerflow.load import load_parts
from steerflow.progress import bar
from steerflow.steer.actor import Actor
from steerflow.steer.models import Models
from steerflow.steer.recipe import Recipe


def run_direction(
    run: Path,
    task: str,
    data: DataSet,
    guidances: Sequence[str] = COMPARED,
    *,
    times: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8),
    scales: Sequence[float] = (0.01, 0.03, 0.1, 0.3),
    states: int = 256,
    draws: int = 8,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """``measure_direction`` of a run's policy and critic in held-out states of the data, for guidances by name.

    Raises UnknownNameError for other guidances, ArtefactError where a part is missing that one asks.
    """
    if not (guidances and times and scales and states > 1 and draws > 0):
        raise SteerflowError(
            "A direction needs at least one guidance, one flow time, one scale, one draw and two states."
        )
    if not all(0 <= t < 1 for t in times) or min(scales) <= 0:
        raise SteerflowError(f"Flow times must lie in [0, 1) and scales above 0; they are {times} and {scales}.")
    recipes = {name: Recipe(guidance=name) for name in guidances}
    policy, critic, parts = load_parts(run, task, recipes.values())
    held_out, _ = draw_pairs(data, policy.spec, states, seed=seed)
    actors = {name: Actor(policy, critic, chosen, parts) for name, chosen in recipes.items()}
    with bar(f"Guidances on {task}", len(actors) * len(times)) as progress:
        found = measure_direction(
            {name: (actor.models, actor.recipe.guidance) for name, actor in actors.items()},
            held_out.observations, held_out.chunks,
            times=times, scales=scales, draws=draws, seed=seed, on_time=progress.update,
        )  # fmt: skip
    made = {"task": task, "policy": policy.fingerprint, "critic": critic.fingerprint if critic else ""}
    return [made | one for one in found]


class Stability(NamedTuple):
    """Of each state, at one flow time and noise scale."""

    cosine: Float[Array, " batch"]
    norm_spread: Float[Array, " batch"]
    norm: Float[Array, " batch"]
    # Whether there is no guidance at all.
    vanishing: Float[Array, " batch"]


def stability(
    models: Models,
    guidance: Any,
    observations: Float[Array, "batch obs"],
    a: Float[Array, "batch flat"],
    t: Float[Array, ""],
    noise: Float[Array, "draws batch flat"],
) -> Stability:
    """Compare the guidance at ``a`` with those at ``a + noise``, one draw after the other; pure and traceable."""

    def guide(x):
        return guidance(models, observations, x, t, models.velocity(observations, x, t))

    before = guide(a)

    def compared(shift):
        after = guide(a + shift)
        norms = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
        cosine = jnp.sum(before * after, axis=-1) / jnp.where(norms > 0, norms, 1.0)
        return cosine, jnp.linalg.norm(after, axis=-1)

    cosines, norms = jax.lax.map(compared, noise)
    mean = norms.mean(axis=0)
    return Stability(
        cosines.mean(axis=0),
        norms.std(axis=0) / jnp.where(mean > 0, mean, 1.0),
        jnp.linalg.norm(before, axis=-1),
        (jnp.linalg.norm(before, axis=-1) == 0).astype(a.dtype),
    )


def measure_direction(
    guidances: Mapping[str, tuple[Models, Any]],
    observations: np.ndarray,
    chunks: np.ndarray,
    *,
    times: Sequence[float],
    scales: Sequence[float],
    draws: int,
    seed: int = 0,
    on_time: Callable[[int, str], None] = lambda done, name: None,
) -> list[dict[str, Any]]:
    """Entries by guidance, flow time and noise scale; a time or scale of None is the mean over all of them.

    guidances: by name, (the models it is asked with, the member). observations (states, observation) and the recorded
    chunks (states, flat). All guidances meet the same noisy actions and the same shifts. Intervals are bootstrapped over
    states; ``minus_first`` is the paired difference of the cosine to that of the first guidance.
    """
    keys = jax.random.split(jax.random.key(seed), 2)
    start = jax.random.normal(keys[0], chunks.shape)
    shifts = jax.random.normal(keys[1], (draws, *chunks.shape))
    found, first = [], None
    for number, (name, (models, guidance)) in enumerate(guidances.items()):
        run = jax.jit(partial(stability, models, guidance, jnp.asarray(observations)))
        cells = []
        for i, t in enumerate(times):
            a = (1 - t) * start + t * chunks
            cells.append([np.stack(run(a, jnp.float32(t), scale * shifts)) for scale in scales])
            on_time(number * len(times) + i + 1, name)
        # (time, scale, measure, state)
        measured = np.asarray(cells, np.float64)
        first = measured if first is None else first
        for i, t in [*enumerate(times), (slice(None), None)]:
            for j, scale in [*enumerate(scales), (slice(None), None)]:
                one, reference = (_over_cells(x, i, j) for x in (measured, first))
                facts = {"guidance": name, "time": t, "scale": scale, "states": len(observations)}
                for measure, values in zip(Stability._fields, one, strict=True):
                    facts |= mean_entry(measure, values)
                found.append(facts | mean_entry("minus_first", one[0] - reference[0]))
    return found


def _over_cells(measured: np.ndarray, time: int | slice, scale: int | slice) -> np.ndarray:
    """(measure, state) of a flow time and a noise scale, or the means over all of them where these are slices."""
    chosen = measured[time][..., scale, :, :] if isinstance(time, int) else measured[:, scale]
    return chosen.reshape(-1, *measured.shape[-2:]).mean(axis=0)
