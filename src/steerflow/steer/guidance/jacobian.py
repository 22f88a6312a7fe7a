from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from steerflow.steer.models import Models


def clip_through(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``clip(x, -1, 1)`` with the identity as its derivative."""
    return x + jax.lax.stop_gradient(jnp.clip(x, -1.0, 1.0) - x)


def clip_of(through_clip: bool):
    """The clip, with its own derivative or with the identity for it."""
    return (lambda x: jnp.clip(x, -1.0, 1.0)) if through_clip else clip_through


@dataclass(frozen=True)
class Jacobian:
    """QGF-Jacobian: ``g = J^T dQ/da (s, estimate)``, ``J`` the derivative of the one-step estimate with respect to ``a``.

    The chain rule that QGF leaves out, as one vector-Jacobian product through the velocity. ``share`` mixes: the matrix is
    ``(1 - share) I + share J``, so that 0 is QGF. With ``through_clip`` dimensions whose estimate is clipped get no gradient,
    as in QGF's code; without, the Jacobian is the only difference from QGF.
    """

    share: float = 1.0
    through_clip: bool = False
    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        clip = clip_of(self.through_clip)
        estimate, pull = jax.vjp(lambda x: clip(x + (1 - t) * models.velocity(observations, x, t)), a)
        g = models.q_gradient(observations, estimate)
        return self.share * pull(g)[0] + (1 - self.share) * g


@dataclass(frozen=True)
class Orthogonal:
    """QGF with the orthogonal matrix nearest to the Jacobian: ``g = (U W^T)^T dQ/da``, ``J = U S W^T`` by singular values.

    What is left of the Jacobian when it may turn the gradient but not stretch it. Needs the whole matrix, one row of it for
    each dimension of the chunk: an ablation, not a method for acting.
    """

    asks: ClassVar[tuple[str, ...]] = ("critic",)

    def __call__(self, models: Models, observations, a, t, v) -> Float[Array, "batch flat"]:
        estimate, pull = jax.vjp(lambda x: clip_through(x + (1 - t) * models.velocity(observations, x, t)), a)
        g = models.q_gradient(observations, estimate)
        units = jnp.broadcast_to(jnp.eye(a.shape[1], dtype=a.dtype)[:, None], (a.shape[1], *a.shape))
        jacobian = jnp.moveaxis(jax.vmap(lambda unit: pull(unit)[0])(units), 0, 1)
        left, _, right = jnp.linalg.svd(jacobian, full_matrices=False)
        return jnp.einsum("bij,bjk,bi->bk", left, right, g)
