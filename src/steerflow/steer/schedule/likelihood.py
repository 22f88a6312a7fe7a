from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Likelihood:
    """``w(t) = weight sqrt(d) sigma(t) / |g|``, ``sigma(t)^2 = 2 (1 - t) / t``: a trust region in reference log-likelihood.

    The flow has the marginals of a diffusion with that ``sigma``, which forgets its noise. By Girsanov's theorem a drift ``u``
    added to it costs ``integral |u|^2 / (2 sigma^2) dt`` of log-likelihood under the reference; here that is
    ``weight^2 d / 2`` per unit of flow time, the same for every row and task. ``sigma`` has no limit at t = 0: times below
    ``floor`` count as it.
    """

    floor: float = 0.1

    def __call__(self, models, weight, t, v, g):
        norm = jnp.linalg.norm(g, axis=-1)
        late = jnp.maximum(t, self.floor)
        sigma = jnp.sqrt(2 * (1 - late) / late)
        root = jnp.sqrt(g.shape[-1]).astype(g.dtype)
        return jnp.asarray(weight, g.dtype) * root * sigma / jnp.where(norm > 0, norm, jnp.inf)
