"""The report of a run: one self-contained HTML file, made from the run folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerflow.artefact import META, read_json
from steerflow.errors import SteerflowError
from steerflow.evaluate.rows import EpisodeRow
from steerflow.learn.config import PARTS
from steerflow.load import tasks_of
from steerflow.report import words
from steerflow.report.compare import Difference, Family, difference, differences, families, leading
from steerflow.report.figures import Plot, learning_curves, q_distribution
from steerflow.report.page import render_page, write_page
from steerflow.report.read import CLONING, Arm, Run, artefact_facts, fingerprint, mean, read_run
from steerflow.report.success import success_against_strength
from steerflow.report.video import Clip, NoVideo, film

_TEMPLATE = "template.html.jinja"


def write_report(run: Path, out: Path | None = None, *, video: bool = True) -> Path:
    """Write the report of the run folder ``run`` to ``out`` (default: RUN/report.html) and return its path.

    Parts that cannot be made (no evaluations yet, no artefacts, no OpenGL) are left out and named in the report; ``video``
    off leaves out the replay of an episode, which takes the longest. Raises ArtefactError if ``run`` is no run folder or
    a file in it is damaged.
    """
    run = Path(run)
    text = render(read_run(run), video=video)
    return write_page(text, run / "report.html" if out is None else Path(out))


def render(run: Run, *, video: bool = True) -> str:
    """The report as HTML text; equal runs give equal text."""
    found = families(run)
    notes = list(run.notes)
    headlines = [h for task in run.tasks if (h := _headline(run, found, task)) is not None]
    context = {
        "name": run.folder.resolve().name,
        "headlines": headlines,
        "overall": _overall(headlines),
        "facts": _key_facts(run),
        "tasks": [_task_part(i, run, found, task) for i, task in enumerate(run.tasks)],
        "paths": _paths(run, found, notes),
        "scene": _scene(run, found, notes) if video else None,
        "learning": learning_curves("learning", run.metrics),
        "details": _details(run, notes),
        "seconds": _seconds(run),
        "config": run.config,
        "notes": notes,
    }
    return render_page(_TEMPLATE, context)


@dataclass(frozen=True)
class Headline:
    """A task's result in two arms: the same policy without and with steering, on the same test episodes."""

    task: str
    # "success", or "return" where the environment tells no success.
    measure: str
    cloning: Arm
    steered: Arm
    # Tuning episodes on which the strength was chosen; 0 where there was no choice.
    tuned: int
    difference: tuple[str, str] | None


def _headline(run: Run, found: Sequence[Family], task: str) -> Headline | None:
    """None unless both behaviour cloning and a steered arm have results on test episodes."""
    here = [f for f in found if f.task == task]
    cloning = next((f.result for f in here if f.method == CLONING), None)
    lead = leading(here)
    steered = lead.result if lead else None
    if lead is None or cloning is None or steered is None or None in (cloning.score, steered.score):
        return None
    measure = "return" if None in (cloning.success, steered.success) else "success"
    pair = difference(run, steered, cloning)
    tuned = max((a.episodes for a in lead.tune), default=0) if lead.tuned else 0
    return Headline(task, measure, cloning, steered, tuned, _difference_text(pair) if pair else None)


def _difference_text(d: Difference) -> tuple[str, str]:
    """("+78", "+70 to +86"): percentage points of success, or units of return."""

    def text(value: float) -> str:
        if d.measure == "success":
            return words.points(value)
        return ("+" if value > 0 else "") + words.number(value)

    return text(d.paired.difference), f"{text(d.paired.ci_low)} to {text(d.paired.ci_high)}"


def _overall(headlines: Sequence[Headline]) -> dict[str, Any] | None:
    """Means over tasks, where there are several with success rates."""
    headlines = [h for h in headlines if h.measure == "success"]
    if len(headlines) < 2:
        return None
    cloning, steered = (mean(getattr(h, which).success for h in headlines) for which in ("cloning", "steered"))
    return {"tasks": len(headlines), "cloning": cloning, "steered": steered}


def _task_part(index: int, run: Run, found: Sequence[Family], task: str) -> dict[str, Any]:
    here = [f for f in found if f.task == task]
    results = {f.result.arm: f.result for f in here if f.result is not None}
    tested = [a for f in here for a in f.test]
    return {
        "name": task,
        "success": success_against_strength(f"success-{index}", task, here),
        "critic": q_distribution(f"critic-{index}", task, [(a, run.rows_of(a)) for a in results.values()]),
        "table": _table(here),
        "differences": [(d, *_difference_text(d)) for d in differences(run, here, task)],
        "diagnostics": [d for a in tested if (d := _diagnostics(a, run.rows_of(a))) is not None],
        "seeds": _seed_span(r for r in run.rows if r.task == task),
    }


def _table(here: Sequence[Family]) -> list[dict[str, Any]]:
    """The table of arms as sections: test episodes with the optimistic maxima, then tuning episodes."""
    sections = []
    titles = {"test": "Test episodes: what is reported", "tune": "Tuning episodes: where strengths are chosen"}
    for split, title in titles.items():
        lines = [
            {"arm": a, "chosen": f.tuned and a.arm == f.chosen}
            for f in here
            for a in (f.test if split == "test" else f.tune)
        ]
        best = [(f, f.optimistic) for f in here if split == "test" and f.optimistic is not None]
        if lines:
            sections.append({"title": title, "lines": lines, "optimistic": best})
    return sections


def _diagnostics(arm: Arm, rows: Sequence[EpisodeRow]) -> dict[str, Any] | None:
    names = ("q_first", "q", "gradient_norm", "velocity_norm", "clipped_fraction")
    values = {name: mean(getattr(r, name) for r in rows) for name in names}
    if all(v is None for v in values.values()):
        return None
    return {"arm": arm.arm, **values}


def _seed_span(rows: Iterable[EpisodeRow]) -> list[tuple[str, int, int]]:
    """(split, lowest, highest) seed of the episodes."""
    seeds: dict[str, list[int]] = {}
    for row in rows:
        seeds.setdefault(row.split, []).append(row.seed)
    return [(split, min(s), max(s)) for split, s in sorted(seeds.items())]


def _key_facts(run: Run) -> list[tuple[str, str]]:
    """The line under the title: data, updates, episodes, time."""
    data = _data(run)
    total = sum(value for _, value, _ in _seconds(run))
    facts = {
        "data": data.get("name"),
        "transitions": words.count(data["transitions"]) if isinstance(data.get("transitions"), int) else None,
        "updates": words.count(max(r["step"] for r in run.metrics)) if run.metrics else None,
        "tasks": len(run.tasks) or None,
        "episodes evaluated": f"{len(run.rows):,}" if run.rows else None,
        "time": words.seconds(total) if total else None,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _data(run: Run) -> dict[str, Any]:
    """What was trained on: as summary.json tells, else as the policy does."""
    told = run.summary.get("data")
    if isinstance(told, dict) and told:
        return told
    meta = run.folder / "policy" / META
    told = read_json(meta).get("data") if meta.exists() else None
    return told if isinstance(told, dict) else {}


def _seconds(run: Run) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the total), the longest first."""
    phases = run.summary.get("seconds")
    timed = phases.items() if isinstance(phases, dict) else []
    timed = [(str(k), float(v)) for k, v in timed if isinstance(v, int | float) and k != "total" and v >= 0]
    total = sum(v for _, v in timed)
    return [(k, v, v / total if total else 0.0) for k, v in sorted(timed, key=lambda kv: -kv[1])]


def _details(run: Run, notes: list[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lists of facts for the last section: data, networks, seeds, timing, versions."""
    summary = {**run.summary, "timing": _with_units(run.summary.get("timing"))}

    def told(names: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
        return [(name.capitalize(), words.flat(summary[name])) for name in names if summary.get(name)]

    folders = {"Policy": run.folder / "policy"} if (run.folder / "policy").is_dir() else {}
    folders |= {f"Critic of {task}": run.folder / "critic" / task for task in tasks_of(run.folder, "critic")}
    for kind in PARTS:
        folders |= {
            f"{kind.capitalize()} part of {task}": run.folder / kind / task for task in tasks_of(run.folder, kind)
        }
    networks = []
    for title, folder in folders.items():
        try:
            networks.append((title, _network_facts(folder)))
        except SteerflowError as error:
            notes.append(f"{title}: {error}")
    data = [("Data", words.flat(_data(run)))] if _data(run) else []
    return data + networks + told(["seeds", "timing", "versions"])


def _with_units(timing: Any) -> Any:
    """What ``Timing.to_json`` tells as texts: its fractional numbers are seconds, but for the share of workers' time."""
    if not isinstance(timing, dict):
        return timing

    def told(name: str, value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return words.percent(value) if name == "physics_share" else words.seconds(value)

    return {name: told(name, value) for name, value in timing.items()}


def _network_facts(folder: Path) -> list[tuple[str, str]]:
    meta = artefact_facts(folder)
    spec = meta.get("spec") or {}
    facts = {"parameters": meta["parameters"], "updates": meta.get("step"), "seed": meta.get("seed")}
    facts |= {name: spec.get(name) for name in ("observation_dim", "action_dim", "chunk")} | (meta.get("config") or {})
    return words.flat({name: value for name, value in facts.items() if value is not None})


class _Missing(Exception):
    """Why a picture cannot be made."""


def _require_artefacts(run: Run, rows: Sequence[EpisodeRow]) -> None:
    """The run's own artefacts, and no others, made the rows."""
    task = rows[0].task
    evaluated = {"policy": {r.policy for r in rows}, "critic": {r.critic for r in rows}}
    for kind in sorted({kind for r in rows for kind in r.parts}):
        evaluated[kind] = {r.parts[kind] for r in rows if kind in r.parts}
    for kind, names in evaluated.items():
        folder = run.folder / kind / task if kind != "policy" else run.folder / kind
        if not fingerprint(folder):
            raise _Missing(f"the run folder holds no {kind} ({folder.relative_to(run.folder)}).")
        if names - {fingerprint(folder), ""}:
            raise _Missing(f"the {kind} in the run folder is not the one that was evaluated.")


def _paths(run: Run, found: Sequence[Family], notes: list[str]) -> Plot | None:
    """The picture of denoising paths along a steered test episode; None and a note where it cannot be made."""
    lead = leading([f for f in found if f.weighted and f.result is not None and f.result.candidates == 1])
    rows = run.rows_of(lead.result) if lead and lead.result else []
    if not rows:
        if run.rows:
            notes.append("There is no picture of denoising paths: no guided arm was chosen and tested.")
        return None
    try:
        _require_artefacts(run, rows)
        from steerflow.report.paths import picture_of_paths

        return picture_of_paths("paths", run.folder, next((r for r in rows if r.success), rows[0]))
    except (SteerflowError, _Missing) as error:
        notes.append(f"There is no picture of denoising paths: {error}")
        return None


@dataclass(frozen=True)
class Scene:
    """The video and the two rows that it shows."""

    task: str
    rows: tuple[EpisodeRow, EpisodeRow]
    clip: Clip


def _scene(run: Run, found: Sequence[Family], notes: list[str]) -> Scene | None:
    """The first test episode that behaviour cloning fails and the leading steered arm solves; or None and a note."""
    lead = leading(found)
    arm = lead.result if lead else None
    cloning = next((f.result for f in found if arm is not None and f.method == CLONING and f.task == arm.task), None)
    if arm is None or cloning is None:
        if run.rows:
            notes.append("There is no video: it needs behaviour cloning and a steered arm on the same test episodes.")
        return None
    solved = {r.seed: r for r in run.rows_of(arm) if r.success}
    failed = [r for r in run.rows_of(cloning) if r.success is False and r.seed in solved]
    if not failed:
        notes.append(f"There is no video: no test episode was failed by {cloning.arm} and solved by {arm.arm}.")
        return None
    pair = (failed[0], solved[failed[0].seed])
    try:
        _require_artefacts(run, pair)
        return Scene(arm.task, pair, film(run.folder, pair))
    except (SteerflowError, _Missing, NoVideo) as error:
        notes.append(f"There is no video: {error}")
        return None
