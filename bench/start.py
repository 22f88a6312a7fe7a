"""Cold start: seconds from the start of a process to its first guided action, and what takes them; fresh processes.

"compiled before" has the compilation cache that an earlier process left behind, "never compiled" an empty one.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.acting import untrained
from bench.measure import Options, Table

_PROGRAM = """
import time
marks = [time.time()]
mark = lambda: marks.append(time.time())
import jax, equinox, numpy as np
mark()
import steerflow
steerflow.load_policy, steerflow.steer
mark()
policy, critic = steerflow.load_policy("RUN/policy"), steerflow.load_critic("RUN/critic")
act = steerflow.steer(policy, critic, "qgf", weight=0.1)
mark()
act(jax.random.key(0), np.zeros(policy.spec.observation_dim, np.float32))
mark()
print(*marks)
"""
_PARTS = ("interpreter", "importing jax and equinox", "importing steerflow", "loading the networks", "first action")


def measure(options: Options) -> Table:
    table = Table("start", "From the start of a process", {"hidden": list(options.hidden), "method": "qgf"})
    repeats = 1 if options.quick else 5
    begin = []
    for _ in range(repeats):
        start = time.time()
        subprocess.run([sys.executable, "-m", "steerflow", "--help"], check=True, stdout=subprocess.DEVNULL)
        begin.append(time.time() - start)
    table.ratio("steerflow --help, seconds", table.add("help", "steerflow --help", "steerflow", "s", begin), "< 0.3")
    for width in options.hidden:
        with tempfile.TemporaryDirectory() as folder:
            policy, critic = untrained(width)
            policy.save(Path(folder) / "policy")
            critic.save(Path(folder) / "critic")
            cold = [_start(folder, fresh=True) for _ in range(repeats)]
            warm = [_start(folder, fresh=False) for _ in range(repeats)]
        group = f"first guided action, 4x{width}"
        table.add(group, "never compiled", "steerflow", "s", [sum(parts) for parts in cold])
        total = table.add(group, "compiled before", "steerflow", "s", [sum(parts) for parts in warm])
        for n, part in enumerate(_PARTS):
            table.add(group, f"... of it {part}", "limit", "s", [parts[n] for parts in warm])
        table.ratio(f"{group}, seconds, compiled before", total, "< 5")
    return table


def _start(folder: str, *, fresh: bool) -> list[float]:
    """Seconds of each part."""
    cache = Path(folder) / "cache"
    environment = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=folder) if fresh else str(cache)
    if not fresh and not cache.exists():
        cache.mkdir()
        _run(folder, environment)
    begin = time.time()
    marks = [begin, *map(float, _run(folder, environment).split())]
    return [b - a for a, b in itertools.pairwise(marks)]


def _run(folder: str, environment: dict[str, str]) -> str:
    program = _PROGRAM.replace("RUN", folder)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    if done.stderr:
        raise RuntimeError(f"A start is to be silent, but it said:\n{done.stderr}")
    return done.stdout
