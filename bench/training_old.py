"""Updates per second of training, beside the machine's own matrix-product ceiling measured in the same run.

    python bench/training.py --data cube-single-play --hidden 256 [--out bench/results/training.json]

The ceiling is what matrix products alone would allow: the FLOPs of all products in one update (forward, and two products
backward for each layer that is trained), over the measured rate of products of the same shape. Warm-up is one call;
figures are medians over calls.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from steerflow.artefact import package_versions
from steerflow.data.feed import make_feed
from steerflow.data.store import DataSet
from steerflow.learn.config import FlowMatchingConfig, IQLConfig, TrainConfig
from steerflow.learn.networks import MLP
from steerflow.learn.state import Learner
from steerflow.learn.train import compiled_updates, spec_of
from steerflow.machine import usable_cores
from steerflow.spec import Normaliser


def product_flops(tree, batch: int, forward: int, trained: bool) -> float:
    """FLOPs of the products of every MLP in ``tree``: ``forward`` passes, and a backward pass if it is trained."""
    total = 0.0
    for mlp in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, MLP)):
        for n, layer in enumerate((*mlp.layers, mlp.output)):
            one = 2 * batch * layer.weight.size  # leading ensemble and task axes count in size
            total += forward * one + trained * (one + (one if n else 0))
    return total


def update_flops(state, batch: int) -> float:
    policy, critics = state.policy, state.critics
    return (
        product_flops(policy.velocity, batch, 1, True)
        + product_flops(critics.critics, batch, 1, True)
        + product_flops(critics.target, batch, 1, False)
        + product_flops(critics.value, batch, 2, True)
    )


def product_rate(batch: int, width: int, products: int = 400) -> float:
    """FLOP/s of (batch, width) x (width, width) products, one after the other; the best of five."""
    a, w = jnp.ones((batch, width)), jnp.full((width, width), 1 / width)
    run = jax.jit(lambda a, w: jax.lax.fori_loop(0, products, lambda _, x: x @ w, a))
    run(a, w).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        run(a, w).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * batch * width * width * products / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cube-single-play")
    parser.add_argument("--task", default="cube-single-singletask-task2-v0")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    hidden = (args.hidden,) * 4
    config = TrainConfig(
        data=args.data, run=Path(), tasks=(args.task,), batch=args.batch,
        policy=FlowMatchingConfig(hidden=hidden), critic=IQLConfig(hidden=hidden),
    )  # fmt: skip
    store = DataSet.open(args.data).train
    learner = Learner(config, spec_of(store, config.chunk))
    feed = make_feed(
        "memory", store, spec=learner.spec, normaliser=Normaliser.fit(store.observations), tasks=learner.tasks,
        seed=0, batch=config.batch, horizon=config.chunk,
    )  # fmt: skip
    call, state = compiled_updates(learner, feed), jax.jit(learner.init)()
    flops = update_flops(state, args.batch)
    rates, products = [], []
    for n in range(args.calls + 1):
        products.append(product_rate(args.batch, args.hidden))
        begin = time.perf_counter()
        state, _ = call(state, feed.data, np.arange(n * 250, (n + 1) * 250, dtype=np.int32), None)
        jax.block_until_ready(state)
        rates.append(250 / (time.perf_counter() - begin))
    rate, product = statistics.median(rates[1:]), statistics.median(products)
    result = {
        "what": f"updates/s, policy and critic, 4x{args.hidden}, batch {args.batch}, chunk {config.chunk}",
        "updates_per_second": round(rate, 1),
        "range": [round(min(rates[1:]), 1), round(max(rates[1:]), 1)],
        "product_gflops_per_update": round(flops / 1e9, 3),
        "product_rate_gflops": round(product / 1e9, 1),
        "ceiling_updates_per_second": round(product / flops, 1),
        "share_of_ceiling": round(rate * flops / product, 3),
        "machine": f"{platform.machine()}, {usable_cores()} cores, {jax.devices()[0].platform}",
        "versions": package_versions(),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
