"""A 2-D picture of denoising: how noise becomes actions without and with guidance, over the critic's landscape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from steerflow.evaluate.rows import EpisodeRow
from steerflow.report import words
from steerflow.report.figures import Plot
from steerflow.report.read import CLONING
from steerflow.report.svg import INK, MUTED, PAPER, SHADE, Mark, drawing, marks, new_figure, swatch, to_svg

if TYPE_CHECKING:
    from jaxtyping import Float

_GRID, _LEVELS = 41, 8
# Noises at which guidance is compared along an episode, and the decisions that are looked at.
_NOISES, _MOST_DECISIONS = 8, 200


class PathActor(Protocol):
    """What this picture needs of ``steerflow.steer.actor.Actor``."""

    def paths(self, seeds: Any, observations: Any, weights: Any) -> Float[np.ndarray, "steps+1 batch flat"]: ...


@dataclass(frozen=True)
class Paths:
    """Denoising paths from the same noise at one observation, in scaled action space [-1, 1]^flat.

    ``plain`` and ``guided`` are (steps + 1, batch, flat): index 0 is the noise, the last one the action.
    """

    plain: Float[np.ndarray, "steps+1 batch flat"]
    guided: Float[np.ndarray, "steps+1 batch flat"]
    weight: float


@dataclass(frozen=True)
class Plane:
    """The plane ``origin + x @ axes`` that holds as much of the endpoints' variance as two dimensions can."""

    origin: Float[np.ndarray, " flat"]
    axes: Float[np.ndarray, "2 flat"]
    explained: float

    def project(self, points: Float[np.ndarray, "... flat"]) -> Float[np.ndarray, "... 2"]:
        return (points - self.origin) @ self.axes.T

    def lift(self, points: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... flat"]:
        return self.origin + points @ self.axes


def picture_of_paths(name: str, run: Path, row: EpisodeRow) -> Plot:
    """The picture at the state of ``row``'s episode where guidance moves actions most, with the run's policy and critic."""
    from steerflow.envs.pool import Pool
    from steerflow.load import load_parts
    from steerflow.steer.actor import Actor
    from steerflow.steer.recipe import Recipe

    with Pool(row.task, 1, 1) as pool:
        pool.start(0, row.seed)
        pool.flush()
        recipe = Recipe.from_json(row.recipe).structure()
        policy, critic, parts = load_parts(run, row.task, [recipe])
        actor = Actor(policy, critic, recipe, parts)
        observation, decision, moved = _strongest_guidance(pool, actor, row)
    where = f"{row.split} episode {row.episode} of {row.task}, decision {decision + 1} of {len(moved)}"
    where += ", where guidance moves actions most" if len(moved) > 1 else ""
    paths = sample_paths(actor, observation, row.weight)
    mean = f"; over the whole episode it is {words.number(float(np.mean(moved)), 2)}"
    return paths_plot(
        name, paths, row.method, where, lambda a: actor.q(np.tile(observation, (len(a), 1)), a), aside=mean
    )


def _strongest_guidance(pool: Any, actor: Any, row: EpisodeRow) -> tuple[np.ndarray, int, list[float]]:
    """(observation, decision, distances): along the steered episode, which ``pool`` has begun, how far guidance moves the
    action chunk (mean over noises), and where it does most."""
    noises = row.seed + np.arange(_NOISES)
    seeds, weights = np.tile(noises, 2), np.repeat(np.array([row.weight, 0.0], np.float32), _NOISES)
    half = (np.asarray(actor.spec.action_high) - np.asarray(actor.spec.action_low)) / 2
    moved, best = [], np.zeros(0, np.float32)
    (reply,) = pool.wait()
    while not reply.done and len(moved) < _MOST_DECISIONS:
        observation = np.asarray(reply.observation, np.float32)
        observations = np.tile(observation, (2 * _NOISES, 1))
        chunks, _ = actor.rows(seeds, np.full(2 * _NOISES, len(moved)), observations, weights)
        shift = ((chunks[:_NOISES] - chunks[_NOISES:]) / half).reshape(_NOISES, -1)
        distance = float(np.linalg.norm(shift, axis=1).mean())
        if distance > max(moved, default=-1.0):
            best = observation
        moved.append(distance)
        # The first noise is the episode's own, so this is the episode that was evaluated.
        pool.execute(0, chunks[0])
        (reply,) = pool.wait()
    return best, int(np.argmax(moved)), moved


def sample_paths(
    actor: PathActor, observation: Float[np.ndarray, " observation"], weight: float, count: int = 40
) -> Paths:
    """``count`` paths at one observation from the same noise, with weight 0 and with ``weight``."""
    seeds = np.arange(count, dtype=np.int64)
    observations = np.tile(np.asarray(observation, np.float32), (count, 1))
    plain, guided = (
        np.asarray(actor.paths(seeds, observations, np.full(count, w, np.float32)), np.float64) for w in (0.0, weight)
    )
    return Paths(plain, guided, weight)


def fit_plane(paths: Paths) -> Plane:
    """Principal components of all endpoints, plain and guided; signs fixed so that equal paths give an equal picture."""
    ends = np.concatenate([paths.plain[-1], paths.guided[-1]])
    origin = ends.mean(axis=0)
    _, scales, directions = np.linalg.svd(ends - origin, full_matrices=False)
    axes = np.zeros((2, ends.shape[1]))
    found = directions[:2]
    axes[: len(found)] = found * np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])[:, None]
    total = float((scales**2).sum())
    return Plane(origin, axes, float((scales[:2] ** 2).sum()) / total if total > 0 else 1.0)


def paths_plot(
    name: str,
    paths: Paths,
    method: str,
    where: str,
    q: Callable[[Float[np.ndarray, "batch flat"]], Float[np.ndarray, " batch"]] | None = None,
    aside: str = "",
) -> Plot:
    """Two panels with the same axes: without and with guidance. ``q`` maps scaled chunks to the critic's values at the
    observation of the paths; with it the plane is shaded by the critic's value. ``aside`` goes into the caption."""
    plane = fit_plane(paths)
    looks = marks([CLONING, method])
    flat = [plane.project(p) for p in (paths.plain, paths.guided)]
    low, high = (f(np.concatenate([p.reshape(-1, 2) for p in flat]), axis=0) for f in (np.min, np.max))
    margin = 0.06 * (high - low).max() + 1e-6
    low, high = low - margin, high + margin
    landscape = _landscape(plane, low, high, q) if q is not None else None
    titles = ("without guidance", words.lines(f"{method}, w = {words.weight(paths.weight)}"))
    with drawing():
        panels = tuple(
            _panel(f"{name}-{i}", points, look, title, (low, high), landscape)
            for i, (points, look, title) in enumerate(zip(flat, (looks[CLONING], looks[method]), titles, strict=True))
        )
    steps, count, dimensions = paths.plain.shape
    moved = np.linalg.norm(paths.guided[-1] - paths.plain[-1], axis=-1).mean()
    caption = (
        f"{count} denoising paths of {steps - 1} steps at {where}, from the same noise (small grey dots) to the action "
        f"chunk (large marks), without guidance and with it. The plane holds the two directions in which the {2 * count} "
        f"actions vary most: {words.percent(plane.explained)} of their variance in {dimensions} dimensions. Guidance moves "
        f"a chunk by {words.number(moved, 2)} on average (actions are scaled to [−1, 1]){aside}. "
    )
    if landscape is not None:
        caption += (
            "The stronger the blue of the background, the higher the critic's value in this plane "
            f"({words.number(landscape[2].min())} to {words.number(landscape[2].max())})."
        )
    legend = (
        (swatch(looks[CLONING]), "behaviour cloning"),
        (swatch(looks[method]), f"{method} from the same noise"),
    )
    return Plot(name, "From noise to action", panels, legend, caption)


def _landscape(plane: Plane, low: np.ndarray, high: np.ndarray, q: Callable) -> tuple[np.ndarray, ...]:
    """x (G,), y (G,), Q (G, G) over the visible part of the plane, at chunks clipped to their bounds."""
    x, y = (np.linspace(low[i], high[i], _GRID) for i in (0, 1))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    chunks = np.clip(plane.lift(points), -1, 1).astype(np.float32)
    return x, y, np.asarray(q(chunks), np.float64).reshape(_GRID, _GRID)


def _panel(name: str, points: np.ndarray, look: Mark, title: str, box, landscape) -> str:
    figure = new_figure()
    axes = figure.subplots()
    if landscape is not None and np.ptp(landscape[2]) > 0:
        x, y, values = landscape
        # Quantiles, not even steps: the plane's far corners would otherwise swallow all levels.
        for level in np.unique(np.quantile(values, np.linspace(0, 1, _LEVELS + 2)[1:-1])):
            axes.contourf(x, y, values, levels=[level, values.max() + 1], colors=[SHADE], alpha=0.11)
    axes.plot(points[..., 0], points[..., 1], color=look.colour, linewidth=0.8, alpha=0.55)
    axes.plot(*points[0].T, "o", color=MUTED, markersize=2.2)
    axes.plot(
        *points[-1].T, look.marker, markersize=5.2, markerfacecolor=look.colour, markeredgecolor=PAPER,
        markeredgewidth=0.7,
    )  # fmt: skip
    (left, bottom), (right, top) = box
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="first principal direction")
    axes.set_ylabel("second", color=INK)
    axes.set_title(title)
    axes.locator_params(nbins=5)
    ends = points[-1].mean(axis=0)
    spoken = f"{points.shape[1]} paths ending around ({words.number(ends[0], 2)}, {words.number(ends[1], 2)})"
    return to_svg(figure, name, f"Denoising paths {title}", spoken)
