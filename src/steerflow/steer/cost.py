"""What an action costs: floating point operations, counted from a compiled program.

XLA's count takes the body of a loop once, and both branches of a conditional. So the sampler is compiled in a form that has
neither: loops are written out, and what is known beforehand, such as the flow times, decides the branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating point operations of ``function(*arguments)``; arguments are arrays or their shapes.

    Results that nothing needs are not computed. Of the branches that depend on the arguments the one with the most
    operations counts. Raises ValueError for a loop whose number of turns depends on the arguments.
    """
    # The count is taken before code is generated, which need not be good.
    lowered = jax.jit(without_loops(function, *arguments)).lower(*arguments)
    compiled = lowered.compile({"xla_backend_optimization_level": "0"})
    return float((compiled.cost_analysis() or {})["flops"])


def without_loops(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The same function of arrays as these, with its loops written out and its known branches taken."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    tree = jax.tree.structure(shape)

    def plain(*arguments: Any) -> Any:
        return jax.tree.unflatten(tree, _run(closed, jax.tree.leaves(arguments)))

    return plain


def _run(closed: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """The values of a program; what does not depend on traced values is computed at once."""
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = _step(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _step(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(inputs, **params)
    if name == "while":
        return _while(inputs, **params)
    if name == "cond":
        index, *operands = inputs
        branches = params["branches"]
        taken = max(branches, key=_size) if _traced(index) else branches[int(index)]
        return _run(taken, operands)
    inner = params.get("jaxpr") or params.get("call_jaxpr")
    if inner is not None:
        return _run(inner if _closed(inner) else ClosedJaxpr(inner, ()), inputs)
    found = _at_once(partial(equation.primitive.bind, **params), *inputs)
    return found if equation.primitive.multiple_results else [found]


def _scan(inputs, *, jaxpr, length, reverse, num_consts, num_carry, **_):
    constants, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    rows: list[Any] = [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        now = [_at_once(lambda x, i=i: x[i], x) for x in inputs[num_consts + num_carry :]]
        found = _run(jaxpr, [*constants, *carry, *now])
        carry, rows[i] = found[:num_carry], found[num_carry:]
    return [*carry, *(_at_once(lambda *xs: jnp.stack(xs), *column) for column in zip(*rows, strict=True))]


def _while(inputs, *, cond_jaxpr, cond_nconsts, body_jaxpr, body_nconsts, **_):
    asks, constants = inputs[:cond_nconsts], inputs[cond_nconsts : cond_nconsts + body_nconsts]
    carry = inputs[cond_nconsts + body_nconsts :]
    while True:
        (again,) = _run(cond_jaxpr, [*asks, *carry])
        if _traced(again):
            raise ValueError("A loop whose number of turns depends on its inputs has no count of operations.")
        if not again:
            return carry
        carry = _run(body_jaxpr, [*constants, *carry])


def _at_once(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``, computed at once where no input is traced: it is a constant then."""
    with nullcontext() if any(map(_traced, inputs)) else jax.ensure_compile_time_eval():
        return function(*inputs)


def _traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def _size(closed: ClosedJaxpr) -> int:
    """How many operations a program names, those of its inner programs included."""
    inner = (p for e in closed.jaxpr.eqns for p in jax.tree.leaves(e.params, is_leaf=_closed) if _closed(p))
    return len(closed.jaxpr.eqns) + sum(map(_size, inner))


def _closed(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr)
