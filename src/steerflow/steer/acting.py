"""The networks as acting asks them: the same functions in the form that reads the fewest bytes and runs the fewest steps.

At batch 1 an action costs as much as reading each weight from the cache, so a product that is not needed is time saved.
"""

from __future__ import annotations

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from steerflow.learn.networks import MLP, Critics

Network = TypeVar("Network", bound=eqx.Module)


class Centred(eqx.Module):
    """A perceptron whose layer norms find features of mean 0: their centring lies in the layer before them.

    Plain products, unlike training's (learn/products.py), whose form is for large batches and gradients of weights.
    """

    # (weight, bias) of each layer, and (scale, shift) of its norm where it has one.
    layers: tuple[tuple[Array, Array], ...]
    norms: tuple[tuple[Array, Array] | None, ...]

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        for (weight, bias), norm in zip(self.layers[:-1], self.norms, strict=True):
            x = x @ weight + bias
            if norm is not None:
                scale, shift = norm
                x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale + shift
            x = jax.nn.gelu(x)
        weight, bias = self.layers[-1]
        return x @ weight + bias


def centred(mlp: MLP) -> Centred | MLP:
    """The same function, with the layer norms' centring moved into the layers before them, once:
    ``x W + b - mean(x W + b) = x (W - mean W) + (b - mean b)``, means over the outputs.

    It saves a sum over the features forward and another one backward. Order "norm_last", which has no layer before its
    norms, stays as it is.
    """
    if mlp.order != "norm_first":
        return jax.device_put(mlp)
    # On the host: here nothing is worth compiling.
    plain = jax.tree.map(np.asarray, mlp)
    without_mean = lambda x: x - x.mean(axis=-1, keepdims=True)  # noqa: E731
    layers = [
        (layer.weight, layer.bias) if norm is None else (without_mean(layer.weight), without_mean(layer.bias))
        for layer, norm in zip(plain.layers, plain.norms, strict=True)
    ]
    norms = tuple(None if norm is None else (norm.scale, norm.shift) for norm in plain.norms)
    layers.append((plain.output.weight, plain.output.bias))
    return Centred(*jax.device_put((tuple(layers), norms)))


def acting_form(network: Network) -> Network:
    """The same function, for networks whose layers are in ``body``."""
    return eqx.tree_at(lambda n: n.body, network, centred(network.body))  # type: ignore[attr-defined]


class ActingCritics(eqx.Module):
    """An ensemble of critics, each by itself: one that no row's gradient depends on is not differentiated.

    The minimum of two critics at batch 1 then costs two forward passes and one backward pass.
    """

    members: tuple[Centred | MLP, ...]

    @staticmethod
    def of(critics: Critics) -> ActingCritics:
        # Sliced on the host: on the device each slice would be compiled.
        members = jax.tree.map(np.asarray, critics.members)
        alone = [jax.tree.map(lambda x, e=e: x[e], members) for e in range(len(members.output.bias))]
        return ActingCritics(tuple(centred(member) for member in alone))

    def __call__(
        self, observations: Float[Array, "batch observation"], actions: Float[Array, "batch flat"]
    ) -> Float[Array, "ensemble batch"]:
        inputs = jnp.concatenate([observations, actions], axis=-1)
        return jnp.stack([_one(member, inputs) for member in self.members])


@jax.custom_vjp
def _one(member: Centred | MLP, inputs: Float[Array, "batch inputs"]) -> Float[Array, " batch"]:
    return member(inputs)[:, 0]


def _one_forward(member, inputs):
    return jax.vjp(lambda x: member(x)[:, 0], inputs)


def _one_backward(pull, cotangent):
    """The gradient with respect to the inputs; where all rows' cotangents are 0, as for the larger of two critics, it is 0."""
    zero = lambda c: (jnp.zeros(jax.eval_shape(pull, c)[0].shape, c.dtype),)  # noqa: E731
    # The weights are frozen: no gradient is asked with respect to them.
    return None, *jax.lax.cond(jnp.any(cotangent != 0), pull, zero, cotangent)


_one.defvjp(_one_forward, _one_backward)
