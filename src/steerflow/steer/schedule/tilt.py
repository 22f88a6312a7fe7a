from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Tilt:
    """``w(t) = weight min(((1 - t) / t)^power, cap)``: the family of the exact weight.

    With the gradient of ``log E[exp(Q / T) | a_t]``, ``weight = 1 / T`` and ``power`` 1 the flow samples the tilted policy
    ``p(a) exp(Q(a) / T) / Z`` (Zheng et al. 2023, arXiv 2311.13443; the guidance ``posterior`` estimates that gradient). The
    factor has no limit at t = 0, hence ``cap``.
    """

    power: float = 1.0
    cap: float = 10.0

    def __call__(self, models, weight, t, v, g):
        # Where the quotient passes the cap's, t no longer matters.
        lowest = 1 / (1 + self.cap ** (1 / self.power)) if self.power > 0 else 0.5
        late = jnp.maximum(t, lowest)
        return jnp.asarray(weight, g.dtype) * ((1 - late) / late) ** self.power
