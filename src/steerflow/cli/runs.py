"""What commands on a run share: its tasks, and the methods and changes asked for."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from steerflow.errors import SteerflowError, unknown

if TYPE_CHECKING:
    from steerflow.steer.recipe import Recipe

RunName = Annotated[Positional[str], arg(metavar="RUN")]

# The settings that plain behaviour cloning has too.
_PLAIN = ("noise", "solver", "steps")


@dataclass(frozen=True)
class Changes:
    """Settings of a recipe other than the method's own, such as ``--solver heun --steps 5``; wrong names list the known ones."""

    # How the flow is integrated: euler, midpoint, heun or rk4.
    solver: str | None = None
    # Equal steps from noise to action.
    steps: int | None = None
    # Which vector is added to the velocity: one_step, noisy, jacobian, robust, cfg, ...; a wrong name is answered with near ones.
    guidance: str | None = None
    # How the weight varies over flow time: constant, window(start=0.2), ramp or normalised (a fraction of the velocity).
    schedule: str | None = None
    # Steps that share one guidance: with 2 it is asked at every second step and added at both.
    guide_every: int | None = None
    # Which candidate is executed: first, best_of_n or softmax(temperature=1.0).
    select: str | None = None
    # How the ensemble of critics becomes one Q: min, mean, first (one critic alone) or mean_minus_std(k=1.0).
    aggregate: str | None = None

    def given(self, plain: bool = False) -> dict[str, Any]:
        """The fields that were set; with ``plain`` those of them that behaviour cloning has."""
        return {k: v for k, v in vars(self).items() if v is not None and (not plain or k in _PLAIN)}


def read_methods(texts: Sequence[str], changes: Changes, parts: Callable[[], Collection[str]]) -> dict[str, Recipe]:
    """Recipes by name, behaviour cloning first: ``qgf``, or ``qgf(aggregate=mean, schedule=window(start=0.5))`` for a preset
    with changes of its own, or ``all`` for every preset whose ``parts`` are there; those that are left out are told.
    Raises with the nearest names for unknown methods and settings."""
    from steerflow.evaluate.arms import method_name
    from steerflow.progress import console
    from steerflow.steer.presets import PRESETS, recipe

    asked = _split(",".join(texts))
    if "all" in asked:
        there = {"critic", *parts()}
        lacking = {name: sorted(one.asks - there) for name, one in PRESETS.items() if one.asks - there}
        for name, kinds in lacking.items():
            note = (
                f"Left out: {name}, for want of a {kinds[0]} part that fits (`steerflow train {kinds[0]} --run RUN`)."
            )
            console().print(note, highlight=False, markup=False, soft_wrap=True)
        at = asked.index("all")
        asked[at : at + 1] = [name for name in PRESETS if name not in lacking]
    found = {"bc": recipe("bc", **changes.given(plain=True))}
    for one in asked:
        name, _, own = one.partition("(")
        if own and not own.endswith(")"):
            raise SteerflowError(
                f"Could not read the method {one!r}. Write it like a call: qgf(steps=5, aggregate=mean)"
            )
        pairs = [pair.partition("=") for pair in _split(own[:-1])]
        known = changes.given(plain=name == "bc") | {key.strip(): _value(value) for key, _, value in pairs}
        changed = recipe(name.strip(), **known)
        found[method_name(name.strip(), changed)] = changed
    return found


def parts_of(places: Iterable[tuple[Path, str]]) -> list[str]:
    """The kinds of parts that every one of the runs has for its task."""
    from steerflow.learn.config import PARTS
    from steerflow.load import tasks_of

    places = list(places)
    return [kind for kind in PARTS if all(task in tasks_of(run, kind) for run, task in places)]


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _value(text: str) -> Any:
    """A number where it is one, else the text."""
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return text.strip()


def split_names(names: Sequence[str]) -> list[str]:
    """Names separated by commas or blanks, without repetitions."""
    return list(dict.fromkeys(name.strip() for text in names for name in text.split(",") if name.strip()))


def require_tasks(run: Path, names: Sequence[str], critic: Path | None = None) -> list[str]:
    """Canonical ids of the named tasks, or of all that the run has critics or parts of.

    Raises for other tasks, naming those, unless there is another ``critic``.
    """
    from steerflow.envs.tasks import canonical_task
    from steerflow.learn.config import PARTS
    from steerflow.load import tasks_of

    known = sorted({task for kind in ("critic", *PARTS) for task in tasks_of(run, kind)})
    tasks = [canonical_task(name) for name in split_names(names)] or known
    if not tasks:
        raise SteerflowError(f"{run} has no critics, so its tasks are not known. Give one: --task NAME")
    for task in tasks if critic is None else ():
        if task not in known:
            raise unknown(
                "task",
                task,
                known,
                f"Its critic is not in {run}; train it: steerflow train critic --data NAME --task {task}",
            )
    return tasks
