"""How much of QGF tuned the default keeps, from the comparisons beside this file: python bench/evidence/share.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from steerflow.evaluate.statistics import percentiles, resampled_means

EVIDENCE = Path(__file__).parent
LATER = {
    "scene 2": ["compare/scene-task2.json"],
    "puzzle 2": ["compare/puzzle-task2.json", "suite/puzzle-3x3-task2.json"],
    "maze 2": [f"compare/pointmaze-task2-{which}.json" for which in ("far", "seed-0", "seed-1")],
    "cube-double 1": ["compare/cube-double.json"],
    "cube-double 2": ["compare/cube-double.json"],
}
# Of three of the first seven settings, trained and measured later.
AGAIN = {
    "scene": ["suite/scene-seed-1.json"],
    "puzzle": ["suite/puzzle-3x3.json"],
    "maze": ["suite/pointmaze-large.json", "compare/pointmaze-15.json"],
}
# Of each setting the outcomes (runs, episodes) of the default and of QGF.
Settings = dict[str, tuple[list[list[int]], list[list[int]]]]


def outcomes(entry: dict[str, Any]) -> list[int]:
    return [int(one) for one in entry["outcomes"]]


def study() -> Settings:
    """The seven settings of the study; those test episodes that had no part in it."""
    found: Settings = {}
    for one in json.loads((EVIDENCE / "compare/variance.json").read_text())["settings"]:
        arms = {arm["arm"]: arm for arm in one["arms"] if (arm["split"], arm["first_seed"]) == ("test", 3_000_000)}
        (qgf,) = (arm for name, arm in arms.items() if name.startswith("qgf w="))
        found[one["setting"]] = ([outcomes(arms["default w=75"])], [outcomes(qgf)])
    return found


def add(settings: Settings, files: dict[str, list[str]]) -> None:
    for name, file in ((name, file) for name, some in files.items() for file in some):
        task = "task2" if name.endswith("2") else "task1"
        for one in json.loads((EVIDENCE / file).read_text())["tasks"]:
            if task in one["task"]:
                runs = {entry["method"]: [outcomes(run) for run in entry["runs"]] for entry in one["methods"]}
                default, qgf = settings.setdefault(name, ([], []))
                default += runs["default"]
                qgf += runs["qgf"]


def share(what: str, settings: Settings) -> None:
    """Print both means, every setting counting alike, and their quotient; runs and episodes are drawn anew."""
    default, qgf = ({name: np.array(pair[k]) for name, pair in settings.items()} for k in (0, 1))
    drawn = [np.mean([x.mean(axis=1) for x in resampled_means(one).values()], axis=0) for one in (default, qgf)]
    low, high = percentiles(drawn[0] / drawn[1])
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
