"""The arithmetic of a layer, with gradients written in the form that XLA computes fastest; results are the same to rounding.

On a CPU, XLA's sums over a batch or over features, fused with what they sum, take as long as a layer's matrix product; as
products with a vector of ones they take a tenth: a quarter more updates in a second at 4 x 512. Factors that are read
transposed are laid out anew first: in bfloat16 only plain products use the processor's units for it (bench/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

# Whatever precision the layers' products have, a sum has float32's.
_EXACT = jax.lax.Precision.HIGHEST
_precision: ContextVar[str] = ContextVar("precision", default="float32")


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products that are traced within have factors of this precision, "float32" or "bfloat16"; results stay float32."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def _matmul(x: Array, y: Array) -> Array:
    if _precision.get() == "float32":
        return x @ y
    return jnp.matmul(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _transposed(x: Array) -> Array:
    """``x.T``, on a CPU as rows in memory instead of another way to read ``x``."""
    rows = Layout(major_to_minor=(0, 1))
    return jax.lax.platform_dependent(x, cpu=lambda x: with_layout_constraint(x.T, rows), default=lambda x: x.T)


@jax.custom_vjp
def product(x: Float[Array, "batch inputs"], weight: Float[Array, "inputs outputs"]) -> Float[Array, "batch outputs"]:
    """``x @ weight``, in the precision of ``products_in``."""
    return _matmul(x, weight)


def _product_gradient(saved, g):
    x, weight = saved
    if weight.shape[1] == 1:
        return g * weight.T, _matmul(g.T, x).T
    if _precision.get() == "bfloat16":
        # Before they are laid out anew, half the bytes; a weight in float32 is read transposed as fast.
        x, weight, g = (factor.astype(jnp.bfloat16) for factor in (x, weight, g))
        return _matmul(g, _transposed(weight)), _matmul(_transposed(x), g)
    return _matmul(g, weight.T), _matmul(_transposed(x), g)


product.defvjp(lambda x, weight: (product(x, weight), (x, weight)), _product_gradient)


@jax.custom_batching.custom_vmap
def _sum_rows(g: Float[Array, "*each rows features"]) -> Float[Array, "*each features"]:
    """The sum over rows. Over an ensemble each member has a factor of ones of its own: with one for all, XLA makes one product
    of all, for which it first transposes ``g``."""
    ones = jnp.ones((*g.shape[:-2], 1, g.shape[-2]), g.dtype)
    return jnp.matmul(ones, g, precision=_EXACT)[..., 0, :]


_sum_rows.def_vmap(lambda size, batched, g: (_sum_rows(g), True))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def to_rows(parameter: Float[Array, " features"], rows: int) -> Float[Array, "rows features"]:
    """``parameter`` as each of so many rows; its gradient is the sum over them."""
    return jnp.broadcast_to(parameter, (rows, *parameter.shape))


def _to_rows_gradient(rows, _, g):
    return (_sum_rows(g),)


to_rows.defvjp(lambda parameter, rows: (to_rows(parameter, rows), None), _to_rows_gradient)


@jax.custom_vjp
def standardise(x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    """``y = (x - mean) / sqrt(var + 1e-6)`` over the features of each row.

    Its gradient is ``(g - mean(g) - y mean(g y)) / sqrt(var + 1e-6)``.
    """
    return _standardise(x)[0]


def _mean(x: Float[Array, "batch features"]) -> Float[Array, "batch 1"]:
    return jnp.matmul(x, jnp.full((x.shape[1], 1), 1 / x.shape[1], x.dtype), precision=_EXACT)


def _standardise(x):
    centred = x - _mean(x)
    inverse = jax.lax.rsqrt(_mean(centred * centred) + 1e-6)
    y = centred * inverse
    return y, (y, inverse)


def _standardise_gradient(saved, g):
    y, inverse = saved
    return (inverse * (g - _mean(g) - y * _mean(g * y)),)


standardise.defvjp(_standardise, _standardise_gradient)
