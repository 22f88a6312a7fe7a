"""What a training run writes, each seed into a folder of its own: metrics, checkpoints, and in the end the artefacts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steerflow.artefact import read_artefact, write_artefact
from steerflow.critic import Critic, CriticNetworks, measure_scales
from steerflow.data.index import ChunkIndex, Columns, chunk_rows, pick_windows
from steerflow.data.store import DataSet, Store
from steerflow.errors import ArtefactError, TrainingError
from steerflow.learn.config import PARTS, TrainConfig
from steerflow.learn.state import Learner, Trainable, TrainState
from steerflow.learn.tensors import from_tensors, to_tensors
from steerflow.policy import Policy, measure_deviation
from steerflow.progress import console
from steerflow.run import keep_lines
from steerflow.spec import Normaliser, Spec

_KEPT_CHECKPOINTS = 2
# Chunks on which scales are measured.
_EXAMPLES = 8192

# Folders by seed, in the order of the states' leading axis.
Folders = Mapping[int, Path]


def _rows(learner: Trainable, info: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, np.ndarray]]]:
    """(number of the seed, learner's name, values (steps,)) from the info of one call, (steps, seed) or (steps, seed, task)."""
    for s in range(len(learner.config.seeds)):
        for part, names in learner.names.items():
            for n, name in enumerate(names):
                yield s, name, {key: x[:, s, n] if x.ndim > 2 else x[:, s] for key, x in info[part].items()}


def require_finite(learner: Trainable, folders: Folders, info: dict[str, Any], first: int, saved: int) -> None:
    """Raise TrainingError if a loss of the call that began at update ``first`` is not finite."""
    for s, name, values in _rows(learner, info):
        finite = np.all([np.isfinite(value) for value in values.values()], axis=0)
        if not finite.all():
            at, (seed, folder) = int(np.argmin(finite)), [*folders.items()][s]
            losses = ", ".join(f"{key} {value[at]:.4g}" for key, value in values.items())
            of_seed = f" of seed {seed}" if len(folders) > 1 else ""
            kept = f"The checkpoint of update {saved:,} is kept in {folder}/checkpoints. " if saved else ""
            raise TrainingError(
                f"{name}{of_seed} is no longer finite at update {first + at + 1:,} ({losses}). {kept}"
                "Look for extreme values with `steerflow data check`, or lower the learning rate."
            )


@contextmanager
def metrics(learner: Trainable, folders: Folders, step: int) -> Iterator[Callable[[int, str, dict[str, Any]], None]]:
    """``log(step, split, info)`` for the ``metrics.jsonl`` of every seed, to continue after ``step``; a part has its own.

    It writes one line per learner: means over the call. Without folders, it writes nothing.
    """
    mine = [name for names in learner.names.values() for name in names]
    own = learner.config.learn if learner.config.learn in PARTS else "."
    paths = [folder / own / "metrics.jsonl" for folder in folders.values()]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        keep_lines(path, lambda row: row["learner"] not in mine or row["step"] <= step)
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "a")) for path in paths]

        def log(step: int, split: str, info: dict[str, Any]) -> None:
            for s, name, values in _rows(learner, info) if files else ():
                means = {key: float(np.mean(value, dtype=np.float64)) for key, value in values.items()}
                files[s].write(json.dumps({"step": step, "learner": name, "split": split, **means}) + "\n")
            for file in files:
                file.flush()

        yield log


def _checkpoints(folder: Path, learn: str) -> dict[int, Path]:
    return {int(path.name): path for path in sorted((folder / "checkpoints" / learn).glob("[0-9]*"))}


def save(learn: str, folders: Folders, state: Any, step: int) -> None:
    """Write a checkpoint of every seed. ``state`` is in numpy."""
    for s, folder in enumerate(folders.values()):
        one = jax.tree.map(lambda x, s=s: x[s], state)
        write_artefact(folder / "checkpoints" / learn / f"{step:010d}", "checkpoint", to_tensors(one), {"step": step})
    # Only then are others dropped: a kill in between leaves a step that all seeds have. Later ones are of a run that could
    # not be continued.
    for folder in folders.values():
        found = _checkpoints(folder, learn)
        keep = sorted(n for n in found if n <= step)[-_KEPT_CHECKPOINTS:]
        # The lock of the run folder is held: what is half written was left by a killed process.
        half_written = (folder / "checkpoints" / learn).glob(".*.tmp")
        for old in (*(found[n] for n in found.keys() - keep), *half_written):
            shutil.rmtree(old, ignore_errors=True)


def restore(learner: Trainable, folders: Folders) -> tuple[int, Any] | None:
    """The newest checkpoints of one step that are whole for every seed, in numpy; None if there are none."""
    shape = jax.eval_shape(learner.init)
    kept = [_checkpoints(folder, learner.config.learn) for folder in folders.values()]
    for step in sorted(set.intersection(*(set(each) for each in kept)), reverse=True):
        try:
            seeds = [read_artefact(each[step], "checkpoint")[0] for each in kept]
            names = set.intersection(*(set(tensors) for tensors in seeds))
            together = {name: np.stack([tensors[name] for tensors in seeds]) for name in names}
            return step, from_tensors(shape, together, f"the checkpoint {kept[0][step]}", to=np.asarray)
        except ArtefactError as error:
            console().print(f"[yellow]Passing over a checkpoint:[/] {error}")
    return None


def finished(config: TrainConfig, folder: Path, data: DataSet) -> bool:
    """Whether all artefacts of the seed in ``folder`` are there, trained for as many updates on the same data."""
    folders = {folder / "policy": "policy"} if config.learn != "critic" else {}
    folders |= {folder / "critic" / task: "critic" for task in config.tasks}
    for place, kind in folders.items():
        try:
            meta = read_artefact(place, kind)[1]
        except ArtefactError:
            return False
        if meta["step"] != config.updates or meta["data"]["fingerprint"] != data.train.fingerprint:
            return False
    return True


def write_artefacts(
    learner: Learner, folders: Folders, state: TrainState, normaliser: Normaliser, data: DataSet
) -> None:
    """Write ``policy`` and ``critic/<task>`` of every seed. ``state`` is in numpy."""
    config = learner.config
    examples = _examples(data.train, learner.spec, normaliser)
    for s, (seed, folder) in enumerate(folders.items()):
        one = jax.tree.map(lambda x, s=s: x[s], state)
        facts = {
            "step": config.updates,
            "seed": seed,
            "data": {
                "name": data.name,
                "fingerprint": data.train.fingerprint,
                "transitions": data.train.transitions,
            },
        }
        if one.policy is not None:
            velocity = jax.device_put(one.policy.velocity)
            meta = {
                **facts,
                "scales": {"deviation": measure_deviation(velocity, examples[0], learner.spec.flat_dim)},
                "network": {"hidden": list(config.policy.hidden), "time_frequency": config.policy.time_frequency},
                "config": {"batch": config.batch, **dataclasses.asdict(config.policy)},
            }
            Policy(learner.spec, normaliser, velocity, meta).save(folder / "policy")
        for n, task in enumerate(learner.tasks):
            networks = jax.tree.map(lambda x, n=n: x[n], CriticNetworks(one.critics.target, one.critics.value))
            networks = jax.device_put(networks)
            meta = {
                **facts,
                "task": task,
                "scales": measure_scales(networks.critics, *examples, networks.value),
                "network": {"hidden": list(config.critic.hidden), "ensemble": config.critic.ensemble},
                "config": {"batch": config.batch, **dataclasses.asdict(config.critic)},
            }
            Critic(learner.spec, normaliser, networks, meta).save(folder / "critic" / task)


def _examples(store: Store, spec: Spec, normaliser: Normaliser) -> tuple[np.ndarray, np.ndarray]:
    """(states, whole chunks (batch, flat)) as networks see them, evenly over the data."""
    index = ChunkIndex.of(store.episode_ends)
    numbers = np.unique(np.linspace(0, index.count - 1, _EXAMPLES).astype(np.int64))
    rows, last = chunk_rows(np, numbers, index.first_chunk, index.episode_ends)
    columns = Columns(store.observations, store.actions, (), ())
    windows = pick_windows(np, columns, rows, last, chunk=spec.chunk, horizon=spec.chunk)
    whole = windows.steps >= spec.chunk
    actions = spec.scale_actions(windows.actions[whole])
    return normaliser(windows.observations[whole]), actions.reshape(len(actions), -1)
