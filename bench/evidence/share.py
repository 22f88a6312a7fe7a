"""How much of QGF tuned the default keeps, from the comparisons beside this file: python bench/evidence/share.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.evaluate.statistics import mean_over_tasks, percentiles, resampled_means
from steerflow.evaluate.table import results_of

EVIDENCE = Path(__file__).parent
# Of each setting its task, and the comparisons that have it.
LATER = {
    "scene 2": ("scene-singletask-task2-v0", ["compare/scene-task2.json"]),
    "puzzle 2": ("puzzle-3x3-singletask-task2-v0", ["compare/puzzle-task2.json", "suite/puzzle-3x3-task2.json"]),
    "maze 2": (
        "pointmaze-large-singletask-task2-v0",
        [
            "compare/pointmaze-task2-far.json",
            *(f"suite/pointmaze-large-task2{seed}.json" for seed in ("", "-seed-1")),
        ],
    ),
    "cube-double 1": ("cube-double-singletask-task1-v0", ["compare/cube-double.json"]),
    "cube-double 2": ("cube-double-singletask-task2-v0", ["compare/cube-double.json"]),
}
# Settings that were trained and measured once more, later.
AGAIN = {
    "demo": ("cube-single-singletask-task2-v0", ["compare/cfgrl-and-qgf.json"]),
    "scene": ("scene-singletask-task1-v0", ["suite/scene-seed-1.json", "compare/cfgrl-and-qgf.json"]),
    "puzzle": ("puzzle-3x3-singletask-task1-v0", ["suite/puzzle-3x3.json", "compare/cfgrl-and-qgf.json"]),
    "scene 2": ("scene-singletask-task2-v0", ["compare/cfgrl-and-qgf.json", "compare/scene-task2-seed-1.json"]),
    "maze": ("pointmaze-large-singletask-task1-v0", ["suite/pointmaze-large.json", "compare/pointmaze-15.json"]),
}
METHODS = ("default", "qgf")
# Of each setting, by method, the outcomes (runs, episodes).
Settings = dict[str, dict[str, list[tuple[float, ...]]]]


def read(file: str) -> dict[str, Any]:
    return json.loads((EVIDENCE / file).read_text())


def study() -> Settings:
    """The seven settings of the study; those test episodes that had no part in it."""
    found: Settings = {}
    for one in read("compare/variance.json")["settings"]:
        tested = [arm for arm in one["arms"] if (arm["split"], arm["first_seed"]) == ("test", 3_000_000)]
        found[one["setting"]] = {
            method: [tuple(map(float, arm["outcomes"])) for arm in tested if arm["arm"].split(" w=")[0] == method]
            for method in METHODS
        }
    return found


def add(settings: Settings, later: dict[str, tuple[str, list[str]]]) -> None:
    for name, (task, files) in later.items():
        runs = settings.setdefault(name, {method: [] for method in METHODS})
        for result in (one for file in files for one in results_of(read(file))):
            if result.method in METHODS and result.task == task:
                runs[result.method].append(result.outcomes["success"])


def share(what: str, settings: Settings) -> None:
    """Print both means, every setting counting alike, and their quotient; runs and episodes are drawn anew."""
    default, qgf = ({name: np.array(runs[method]) for name, runs in settings.items()} for method in METHODS)
    low, high = percentiles(mean_over_tasks(resampled_means(default)) / mean_over_tasks(resampled_means(qgf)))
    ours, theirs = (np.mean([x.mean() for x in one.values()]) for one in (default, qgf))
    print(f"{what}: {ours:.3f} of {theirs:.3f}, {100 * ours / theirs:.1f} % ({100 * low:.1f} - {100 * high:.1f})")


def main() -> None:
    settings = study()
    share("The seven settings", settings)
    add(settings, LATER)
    share("All twelve", settings)
    easier = lambda: {name: pair for name, pair in settings.items() if not name.startswith("cube-double")}  # noqa: E731
    share("Without cube-double", easier())
    add(settings, AGAIN)
    share("Every training", settings)
    share("Every training, without cube-double", easier())


if __name__ == "__main__":
    main()
