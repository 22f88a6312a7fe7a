from __future__ import annotations

import os
import platform
import signal
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far longer than they compute, so machine code is not optimised, and on x86 fusions are written as XLA used to: a
# third of the time. Such fusions would round a product and a sum together in one program and apart in another, so they do without
# the instructions for it. To test all as users have it: XLA_FLAGS= make tests
_FLAGS = "--xla_backend_optimization_level=0"
if platform.machine() in ("x86_64", "AMD64"):
    _FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX"
os.environ.setdefault("XLA_FLAGS", _FLAGS)
# A shell's background jobs ignore Ctrl-C, and so would the commands that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests compile the same small programs again and again, in this process and in those they start; one cache for each process
# of pytest-xdist, because jax does not write its files in one step.
_CACHE = tempfile.TemporaryDirectory(prefix="steerflow-xla-")
_BASE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_BASE, os.environ.get("PYTEST_XDIST_WORKER", ""))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

from jaxtyping import install_import_hook  # noqa: E402

# Shapes in signatures are checked at run time, in tests only; before the modules are imported.
install_import_hook(["steerflow.learn", "steerflow.steer"], "beartype.beartype")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from steerflow.data.store import DataSet, StoreWriter  # noqa: E402

# No test depends on how fast the machine is.
hypothesis.settings.register_profile("steerflow", deadline=None)
hypothesis.settings.load_profile("steerflow")


# Files that take minutes begin first, so that no process is left with one of them when the others are done.
_LONG = [
    f"test_{name}.py" for name in ("scale", "learn", "parts", "compare", "analyse", "docs", "launch", "demo", "actor")
]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


def write_data(folder, *, episodes=6, length=20, seed=0, task="reach", observation_dim=3, action_dim=2):
    """A small data set: a point that moves by its action; reward -|position|, success near 0."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", episodes), ("val", 2)):
        rewards, masks = [], []
        source = {"name": folder.name, "seed": seed}
        with StoreWriter(
            folder / split, action_low=[-1.0] * action_dim, action_high=[1.0] * action_dim, source=source
        ) as writer:
            for _ in range(count):
                rows = int(rng.integers(length // 2, length + 1))
                actions = rng.uniform(-1, 1, (rows, action_dim))
                steps = np.zeros((rows, observation_dim))
                steps[1:, :action_dim] = 0.1 * actions[:-1]
                observations = rng.normal(size=observation_dim) + np.cumsum(steps, axis=0)
                writer.append({"observations": observations, "actions": actions})
                distance = np.linalg.norm(observations[:, :action_dim], axis=1)
                rewards.append(-distance)
                masks.append((distance > 0.3).astype(np.float32))
            store = writer.commit()
        store.add_task(task, np.concatenate(rewards), np.concatenate(masks))
        store.add_task(f"{task}-far", -np.concatenate(rewards), np.ones(store.rows))
    return DataSet.open(folder)


@pytest.fixture(scope="module", autouse=True)
def _no_more_memory_than_one_file_needs():
    """Compiled programs are kept in memory, gigabytes of them over all files."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data set of six short episodes with the tasks "reach" and "reach-far"."""
    return write_data(tmp_path_factory.mktemp("data") / "points")
