"""States and actions of a run's data set, as a sample to measure on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerflow.data.index import ChunkIndex, chunk_rows
from steerflow.data.store import DataSet, Store
from steerflow.errors import MismatchError
from steerflow.spec import Spec


@dataclass(frozen=True)
class Pairs:
    """States in the data's units, and the chunks that were recorded in them, flattened and scaled to [-1, 1]."""

    observations: Float[np.ndarray, "pairs observation"]
    chunks: Float[np.ndarray, "pairs flat"]

    def __len__(self) -> int:
        return len(self.observations)


def draw_pairs(data: DataSet, spec: Spec, held_out: int, recorded: int = 0, seed: int = 0) -> tuple[Pairs, Pairs]:
    """(held out, recorded): pairs drawn uniformly, without repetition, from whole chunks of episodes that do not overlap.

    Held-out pairs are of the validation store; where there is none, of the last tenth of the training store, which the
    recorded ones then leave out. Fewer than asked where the data hold no more. Raises MismatchError where the data do not fit.
    """
    rng = np.random.default_rng(seed)
    if data.train.observations.shape[1] != spec.observation_dim or data.train.actions.shape[1] != spec.action_dim:
        raise MismatchError(
            f"{data.train.path} does not hold the spaces that the policy was trained on. Give the --data it knows."
        )
    first = np.concatenate([[0], np.cumsum(np.diff(data.train.episode_ends, prepend=0) - 1)])
    last = data.train.episodes if data.val is not None else int(0.9 * data.train.episodes)
    train = _draw(data.train, spec, (0, int(first[last])), recorded, rng)
    if data.val is not None:
        return _draw(data.val, spec, (0, data.val.transitions), held_out, rng), train
    return _draw(data.train, spec, (int(first[last]), int(first[-1])), held_out, rng), train


def _draw(store: Store, spec: Spec, numbers: tuple[int, int], count: int, rng: np.random.Generator) -> Pairs:
    index = ChunkIndex.of(store.episode_ends)
    low, high = numbers
    # More than asked, as chunks that reach beyond the recording are left out.
    drawn = low + rng.choice(high - low, min(high - low, 2 * count + 100), replace=False)
    rows, last = chunk_rows(np, drawn.astype(np.int32), index.first_chunk, index.episode_ends)
    rows = np.sort(rows[rows + spec.chunk <= last][:count])
    chunks = store.actions[rows[:, None] + np.arange(spec.chunk)]
    return Pairs(np.asarray(store.observations[rows]), spec.scale_actions(chunks).reshape(len(rows), spec.flat_dim))
