"""Pytrees of arrays as named tensors and back, for safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from steerflow.errors import ArtefactError

Tree = TypeVar("Tree")


def to_tensors(tree: Any) -> dict[str, np.ndarray]:
    """Name every array by its place in the tree: ``{"body.layers[0].weight": ...}``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def from_tensors(
    shape: Tree, tensors: Mapping[str, np.ndarray], what: str, to: Callable[[np.ndarray], Any] = jnp.asarray
) -> Tree:
    """Fill a tree of shapes (from ``jax.eval_shape``) with ``to`` of the tensors.

    Raises ArtefactError if one is missing or does not fit.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shape)
    filled = []
    for path, leaf in leaves:
        name = _name(path)
        if name not in tensors:
            raise ArtefactError(f"The tensor {name!r} is missing in {what}.")
        tensor = tensors[name]
        if tensor.shape != leaf.shape or tensor.dtype != leaf.dtype:
            raise ArtefactError(
                f"The tensor {name!r} in {what} is {tensor.dtype}{tensor.shape}, not {leaf.dtype}{leaf.shape}."
            )
        filled.append(to(tensor))
    return jax.tree_util.tree_unflatten(structure, filled)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path).removeprefix(".")
