"""A failing and a succeeding episode from the same start, side by side, as an animated WebP.

Rendering happens in a process of its own (``python -m steerflow.report.video``): OpenGL's backend must be chosen before
mujoco is imported, and a crash of a graphics driver must not take the report with it.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerflow.evaluate.rows import EpisodeRow

if TYPE_CHECKING:
    from jaxtyping import UInt8

_SIZE, _GAP, _BORDER = 240, 8, 4
# Pictures of an episode that lasts as long as it may; shorter ones have fewer.
_MOST_PICTURES = 125
_FRAME_MS, _HOLD_MS = 60, 1800
_SOLVED, _MISSED = (0, 158, 115), (120, 120, 120)
_NO_GL = 3
_MOST_SECONDS = 300


@dataclass(frozen=True)
class Take:
    """One recorded episode: ``frames`` (n, size, size, 3), and how it ended: ``total`` is its return."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    success: bool
    length: int
    total: float


@dataclass(frozen=True)
class Clip:
    """What the page shows: both episodes in one animation, and stills of each for paper and for reduced motion."""

    animation: str
    width: int
    height: int
    stills: tuple[tuple[str, ...], ...]
    takes: tuple[Take, ...]


class NoVideo(Exception):
    """Why there is no video; the message completes "There is no video: ..."."""


def film(run: Path, rows: Sequence[EpisodeRow]) -> Clip:
    """Replay ``rows`` (same task and episode) and show them side by side; raises NoVideo with the reason if it cannot."""
    job = {
        "run": str(run),
        "task": rows[0].task,
        "episodes": [{"recipe": r.recipe, "weight": r.weight, "seed": r.seed} for r in rows],
    }
    problems: list[str] = []
    for backend in _backends():
        with tempfile.TemporaryDirectory() as folder:
            code, problem = _in_process(job, Path(folder), backend)
            if code == 0:
                takes = tuple(_read_take(Path(folder) / f"{i}.npz") for i in range(len(rows)))
                _require_same(takes, rows)
                return _clip(takes)
        problems.append(f"{backend or 'the default'}: {problem}")
        if code != _NO_GL and code >= 0:
            raise NoVideo(f"the episodes could not be replayed ({problem}).")
    raise NoVideo(
        "no OpenGL backend works here ("
        + "; ".join(problems)
        + "). On Debian or Ubuntu: apt-get install libegl1 libosmesa6"
    )


def record_episode(task: str, actor: Any, weight: float, seed: int) -> Take:
    """Run one episode as the evaluation does (same seed, same noise) and picture every second state, or fewer if it is long."""
    from steerflow.envs.tasks import make_env, reset_env

    env = make_env(task)
    try:
        camera = _Camera(env)
        observation, _ = reset_env(env, seed)
        frames, length, total, decision, info, done = [camera.shoot()], 0, 0.0, 0, {}, False
        every = max(2, -(-(env.spec.max_episode_steps or 0) // _MOST_PICTURES)) if env.spec else 2
        while not done:
            chunk, _ = actor.rows(
                np.array([seed]), np.array([decision]), np.asarray(observation, np.float32)[None],
                np.array([weight], np.float32),
            )  # fmt: skip
            decision += 1
            for action in chunk[0]:
                observation, reward, terminated, truncated, info = env.step(action.copy())
                length, total, done = length + 1, total + float(reward), bool(terminated or truncated)
                if done or length % every == 0:
                    frames.append(camera.shoot())
                if done:
                    break
        return Take(np.stack(frames), bool(info.get("success", False)), length, total)
    finally:
        env.close()


class _Camera:
    """Pictures of a MuJoCo environment, without shadows and at twice the size, which is fast and smooth in software."""

    def __init__(self, env: Any) -> None:
        mujoco: Any = importlib.import_module("mujoco")
        base = env.unwrapped
        self._model: Any = getattr(base, "_model", None) or getattr(base, "model", None)
        self._data = getattr(base, "_data", None) or getattr(base, "data", None)
        if not isinstance(self._model, mujoco.MjModel) or self._data is None:
            raise NoVideo("this environment is not simulated by MuJoCo")
        visual = self._model.vis
        visual.quality.shadowsize = visual.quality.offsamples = 0
        visual.global_.offwidth = visual.global_.offheight = 2 * _SIZE
        names = [self._model.camera(i).name for i in range(self._model.ncam)]
        self._view: str | int = "front" if "front" in names else -1
        self._renderer = mujoco.Renderer(self._model, 2 * _SIZE, 2 * _SIZE)

    def shoot(self) -> np.ndarray:
        self._renderer.update_scene(self._data, camera=self._view)
        large = self._renderer.render().astype(np.uint16)
        return (large.reshape(_SIZE, 2, _SIZE, 2, 3).sum(axis=(1, 3)) // 4).astype(np.uint8)


def _backends() -> list[str]:
    """MUJOCO_GL values to try; empty text is mujoco's own choice, the right one where there is a window system's GL."""
    if not sys.platform.startswith("linux"):
        return [""]
    wish = os.environ.get("MUJOCO_GL", "").lower()
    return list(dict.fromkeys([w for w in (wish,) if w in ("egl", "osmesa", "glfw")] + ["egl", "osmesa"]))


def _in_process(job: dict[str, Any], folder: Path, backend: str) -> tuple[int, str]:
    """(exit status, last line of its errors) of the recording process."""
    # The parent may hold most of a GPU's memory.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # Tasks may be registered by modules that only this process's path finds.
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment.pop("MUJOCO_GL", None)
    environment.pop("PYOPENGL_PLATFORM", None)
    if backend:
        environment["MUJOCO_GL"] = backend
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "steerflow.report.video", str(folder)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"it took longer than {_MOST_SECONDS} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, lines[-1][:300] if lines else f"exit status {done.returncode}"


def _read_take(path: Path) -> Take:
    with np.load(path, allow_pickle=False) as data:
        return Take(data["frames"], bool(data["success"]), int(data["length"]), float(data["total"]))


def _require_same(takes: Sequence[Take], rows: Sequence[EpisodeRow]) -> None:
    """A video of other episodes than the table's would be worse than none."""
    for take, row in zip(takes, rows, strict=True):
        same = (take.success, take.length) == (bool(row.success), row.length)
        if not same or not math.isclose(take.total, row.return_, rel_tol=1e-5, abs_tol=1e-6):
            raise NoVideo(
                f"episode {row.episode} of {row.arm} did not replay as recorded (a return of {row.return_:.6g} in {row.length} "
                f"steps, now {take.total:.6g} in {take.length}): the machine or the package versions differ."
            )


def _clip(takes: tuple[Take, ...]) -> Clip:
    from PIL import Image

    count = max(len(t.frames) for t in takes)
    height, width = takes[0].frames.shape[1:3]
    total = len(takes) * (width + _GAP) - _GAP
    images = []
    for n in range(count):
        # The gap is transparent, so that it takes the page's colour in light and dark.
        canvas = np.zeros((height, total, 4), np.uint8)
        for i, take in enumerate(takes):
            left = i * (width + _GAP)
            canvas[:, left : left + width, :3] = _framed(take) if n >= len(take.frames) - 1 else take.frames[n]
            canvas[:, left : left + width, 3] = 255
        images.append(Image.fromarray(canvas))
    durations = [_FRAME_MS] * (count - 1) + [_HOLD_MS]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, quality=60, method=4
    )
    stills = []
    for take in takes:
        picks = np.linspace(0, len(take.frames) - 1, 4).astype(int)
        stills.append(tuple(_still(_framed(take) if p == len(take.frames) - 1 else take.frames[p]) for p in picks))
    return Clip(_uri(buffer.getvalue()), total, height, tuple(stills), takes)


def _framed(take: Take) -> np.ndarray:
    """The last picture in a border that tells how the episode ended."""
    picture = take.frames[-1].copy()
    colour = _SOLVED if take.success else _MISSED
    for edge in (np.s_[:_BORDER], np.s_[-_BORDER:], np.s_[:, :_BORDER], np.s_[:, -_BORDER:]):
        picture[edge] = colour
    return picture


def _still(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=70, method=4)
    return _uri(buffer.getvalue())


def _uri(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _require_gl() -> None:
    """Draw one picture of an empty scene; leaves with status _NO_GL if that is not possible."""
    try:
        mujoco: Any = importlib.import_module("mujoco")
        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        renderer = mujoco.Renderer(model, 8, 8)
        renderer.update_scene(mujoco.MjData(model))
        renderer.render()
    except Exception as error:
        # Libraries that are missing show as any kind of error, from ImportError to AttributeError.
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        sys.exit(_NO_GL)


def _main(folder: Path) -> None:
    _require_gl()
    from steerflow.load import load_parts
    from steerflow.steer.actor import Actor
    from steerflow.steer.recipe import Recipe

    job = json.loads((folder / "job.json").read_text())
    recipes = [Recipe.from_json(episode["recipe"]).structure() for episode in job["episodes"]]
    policy, critic, parts = load_parts(Path(job["run"]), job["task"], recipes)
    for i, (episode, recipe) in enumerate(zip(job["episodes"], recipes, strict=True)):
        actor = Actor(policy, critic, recipe, parts)
        take = record_episode(job["task"], actor, episode["weight"], episode["seed"])
        np.savez(folder / f"{i}.npz", frames=take.frames, success=take.success, length=take.length, total=take.total)


if __name__ == "__main__":
    from steerflow.errors import SteerflowError

    try:
        _main(Path(sys.argv[1]))
    except (SteerflowError, NoVideo) as problem:
        sys.exit(str(problem))
