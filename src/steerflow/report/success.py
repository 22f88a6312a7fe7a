"""Success against strength, one panel per method; tuning and test episodes told apart."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerflow.report import words
from steerflow.report.compare import Family
from steerflow.report.figures import Plot, span
from steerflow.report.read import CLONING, Arm
from steerflow.report.svg import (
    CHOSEN,
    INK,
    MUTED,
    PAPER,
    Mark,
    drawing,
    horizontal_grid,
    marks,
    new_figure,
    swatch,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Tuning and test results stand aside of each other by this part of the axis, so that neither hides the other.
_ASIDE = 0.012
# The width of a letter in a label, as a part of the weight axis.
_LETTER = 0.02


def success_against_strength(name: str, task: str, families: Sequence[Family]) -> Plot | None:
    """A panel for each guided method (weight on a log axis behind a broken edge for 0), and one for those without
    guidance (number of candidates, 1 being behaviour cloning)."""
    families = [f for f in families if any(a.score is not None for a in (*f.tune, *f.test))]
    if not families:
        return None
    looks = marks([f.method for f in families])
    weighted, plain = [f for f in families if f.weighted], [f for f in families if not f.weighted]
    with drawing():
        panels = [_weight_panel(f"{name}-{i}", f, plain, looks) for i, f in enumerate(weighted)]
        if len(plain) > 1 or not weighted:
            panels.append(_candidates_panel(f"{name}-plain", plain, looks))
    arms = [a for f in families for a in (*f.tune, *f.test)]
    told = all(a.success is not None for a in arms)
    measure = (
        "Success rate with its 95% interval (Wilson)"
        if told
        else "Mean return with its 95% interval (bootstrap; this environment tells no success)"
    )
    caption = f"{measure} on {task}. "
    if any(a.split == "tune" for a in arms):
        caption += (
            "Hollow marks on a dashed line are tuning episodes, on which strengths are chosen; filled marks are test episodes. "
            "The upright line marks the chosen strength, the ring its result on test episodes. "
        )
        if len({a.episodes for a in arms if a.split == "tune"}) > 1:
            caption += "Tuning gave up what could no longer be chosen. "
    if weighted:
        caption += "The weight axis is logarithmic; 0, behaviour cloning, stands left of the break"
        reference = _reference(plain)
        caption += ", and its test result is carried on as a dotted line." if reference is not None else "."
    what = "Success" if told else "Return"
    title = f"{what} against guidance weight" if weighted else f"{what} by number of candidates"
    return Plot(name, title, tuple(panels), tuple(_legend(families, looks)), caption)


def _legend(families: Sequence[Family], looks: dict[str, Mark]) -> list[tuple[str, str]]:
    arms = [a for f in families for a in (*f.tune, *f.test)]
    tuned, tested = (sorted({a.episodes for a in arms if a.split == split}) for split in ("tune", "test"))
    sample = next((looks[f.method] for f in families if f.method != CLONING), Mark(INK, "o"))
    legend = []
    if tested:
        legend.append((swatch(sample), f"test episodes ({span(tested)} per arm)"))
    if tuned:
        legend.append((swatch(sample, hollow=True, dashed=True), f"tuning episodes ({span(tuned)} per arm)"))
    if CLONING in looks:
        legend.append((swatch(looks[CLONING]), "behaviour cloning"))
    return legend


def _reference(plain: Sequence[Family]) -> Arm | None:
    """Behaviour cloning on test episodes."""
    return next((f.result for f in plain if f.method == CLONING), None)


def _weight_panel(name: str, family: Family, plain: Sequence[Family], looks: dict[str, Mark]) -> str:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = new_figure()
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 8])
    figure.set_layout_engine(ConstrainedLayoutEngine(wspace=0, w_pad=0.02))
    positive = [w for w in family.strengths if w > 0]
    low, high = min(positive) / 1.6, max(positive) * 1.6
    cloning = next((f for f in plain if f.method == CLONING), None)
    for tune in (True, False):
        aside = (high / low) ** (-_ASIDE if tune else _ASIDE)
        above = [a for a in (family.tune if tune else family.test) if a.weight > 0]
        _series(right, above, [a.weight * aside for a in above], looks[family.method], tune)
        for zero in (family, cloning) if cloning is not None else (family,):
            arms = [a for a in (zero.tune if tune else zero.test) if a.weight == 0]
            _series(left, arms, [-0.28 if tune else 0.28] * len(arms), looks[zero.method], tune)
    reference = _reference(plain)
    if reference is not None and reference.score is not None:
        for axes in (left, right):
            axes.axhline(
                reference.score[0], color=looks[CLONING].colour, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1
            )
    weight = _chosen_strength(family)
    if weight is not None:
        at = weight * (high / low) ** _ASIDE if weight > 0 else 0.28
        _mark_choice(right if weight > 0 else left, weight, at, family)
    # The name spans both axes, which the layout would part to hold a title; the title of as many lines keeps its room.
    title = words.lines(family.name)
    left.text(
        0, 1, textwrap.indent(title, " "), fontproperties=left.title.get_fontproperties(), in_layout=False,
        transform=left.transAxes + left.titleOffsetTrans,
    )  # fmt: skip
    chosen = f"chosen: {words.weight(weight)}" if weight is not None else " "
    right.set_title("\n" * title.count("\n") + chosen, loc="right", color=CHOSEN, fontsize=11, weight="normal")
    ticks = _spread(positive, weight or positive[0], low, high)
    right.set(xscale="log", xlim=(low, high), xlabel="guidance weight w")
    right.set_xticks(ticks, [words.weight(w) for w in ticks])
    right.set_xticks([], minor=True)
    left.set(xlim=(-1, 1), xticks=[0])
    _measure_axis(left, family)
    for axes in (left, right):
        horizontal_grid(axes)
    right.tick_params(axis="y", left=False, labelleft=False)
    # Two slanted strokes say that the axis is broken between 0 and the log scale.
    for axes, x in ((left, 1), (right, 0)):
        stroke: Any = [(-0.5, -1), (0.5, 1)]
        axes.plot([x], [0], marker=stroke, markersize=8, color=MUTED, transform=axes.transAxes, clip_on=False)
    return to_svg(figure, name, f"{family.name}: results against guidance weight", _spoken([family, *plain]))


def _candidates_panel(name: str, plain: Sequence[Family], looks: dict[str, Mark]) -> str:
    figure = new_figure()
    axes = figure.subplots()
    numbers = sorted({n for f in plain for n in f.strengths})
    low, high = numbers[0] / 1.5, numbers[-1] * 1.5
    for family in plain:
        for tune in (True, False):
            aside = (high / low) ** (-_ASIDE if tune else _ASIDE)
            arms = family.tune if tune else family.test
            _series(axes, arms, [a.candidates * aside for a in arms], looks[family.method], tune)
        chosen = _chosen_strength(family)
        if chosen is not None and family.tuned:
            _mark_choice(axes, chosen, chosen * (high / low) ** _ASIDE, family)
    names = [f.name for f in plain if f.method != CLONING]
    axes.set(xscale="log", xlim=(low, high), xlabel="candidates")
    axes.set_xticks(numbers, [f"{n:g}" for n in numbers])
    axes.set_xticks([], minor=True)
    axes.set_title(textwrap.indent(words.lines(", ".join(names[:3]) or CLONING), " "))
    _measure_axis(axes, plain[0])
    horizontal_grid(axes)
    return to_svg(figure, name, "Results of the methods without guidance, by number of candidates", _spoken(plain))


def _chosen_strength(family: Family) -> float | None:
    """The strength of the chosen arm; 0 where behaviour cloning was chosen."""
    if family.chosen is None:
        return None
    own = [family.strength(a) for a in (*family.test, *family.tune) if a.arm == family.chosen]
    return own[0] if own else 0.0


def _mark_choice(axes: Axes, at: float, ring_at: float, family: Family) -> None:
    axes.axvline(at, color=CHOSEN, linewidth=1, alpha=0.6, zorder=1)
    if family.result is not None and family.result.score is not None:
        axes.plot(
            [ring_at], [family.result.score[0]], "o", markersize=14, markerfacecolor="none",
            markeredgecolor=CHOSEN, markeredgewidth=1.4,
        )  # fmt: skip


def _series(axes: Axes, arms: Sequence[Arm], at: Sequence[float], look: Mark, tune: bool) -> None:
    """Marks with intervals, joined by a line, at ``at`` on the x axis; those of tuning episodes hollow and dashed."""
    shown = [(x, a.score) for x, a in zip(at, arms, strict=True) if a.score is not None]
    if not shown:
        return
    x = [x for x, _ in shown]
    y, low, high = np.array([score for _, score in shown]).T
    style: Any = (0, (4, 2.5)) if tune else "-"
    axes.vlines(x, low, high, color=look.colour, linewidth=1.1 if tune else 2, zorder=3)
    axes.plot(
        x, y, color=look.colour, linestyle=style, linewidth=1.2 if tune else 1.9, marker=look.marker, markersize=6,
        markerfacecolor=PAPER if tune else look.colour, markeredgecolor=look.colour, markeredgewidth=1.2,
        zorder=4 if tune else 5,
    )  # fmt: skip


def _measure_axis(axes: Axes, family: Family) -> None:
    if any(a.success is None for a in (*family.tune, *family.test)):
        axes.set_ylabel("mean return")
        return
    axes.set(ylim=(-0.04, 1.04))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])


def _spread(weights: Sequence[float], first: float, low: float, high: float) -> list[float]:
    """The weights that get a label on the log axis from ``low`` to ``high``: ``first``, then those that have room beside
    the ones taken."""

    def room(one: float, other: float) -> bool:
        letters = (len(words.weight(one)) + len(words.weight(other))) / 2
        return abs(np.log(one / other) / np.log(high / low)) > letters * _LETTER + _LETTER

    taken: list[float] = []
    for weight in (first, *weights):
        if all(room(weight, other) for other in taken):
            taken.append(weight)
    return sorted(taken)


def _spoken(families: Sequence[Family]) -> str:
    parts = []
    for arm in (a for f in families for a in (*f.test, *f.tune)):
        result = f"mean return {words.number(arm.mean_return)}"
        if arm.success is not None:
            result = f"{words.percent(arm.success)} ({words.interval(arm.ci_low, arm.ci_high)})"
        parts.append(f"{arm.arm}, {arm.split}: {result}")
    return "; ".join(parts)
