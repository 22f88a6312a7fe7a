"""``make_data``: from a name to a data set on disk, through part files that survive any interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from steerflow.artefact import META, package_versions, read_json, write_json
from steerflow.data.generate.settings import Settings, official_settings
from steerflow.data.generate.workers import KEPT, Facts, Part, Plan, fill_parts
from steerflow.data.generate.world import SPLITS, GenerationError
from steerflow.data.store import DataSet, Store, StoreWriter, data_root
from steerflow.errors import BusyError, DataError
from steerflow.machine import usable_cores
from steerflow.progress import bar, console

# Rows of a part file: a few seconds of work, which is what a kill can cost.
_PART_ROWS = 4000
_FACTS = "facts.json"
# What decides the bytes of an episode; an interrupted run goes on only with the same versions.
_VERSIONS = ("mujoco", "ogbench", "numpy")


def make_data(
    name: str,
    *,
    episodes: int | None = None,
    transitions: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    out: str | Path | None = None,
    val_fraction: float = 0.1,
) -> DataSet:
    """Generate an OGBench data set with the official settings, at any size.

    ``name`` is one of ``available_names()``, such as ``cube-single-play``. The size is the official one, or ``episodes``
    training episodes, or as many as hold ``transitions``; ``val_fraction`` of that (at least one episode, 0 for none) is added
    for validation. Episode i of a split depends on (name, seed, split, i) and the versions of mujoco and ogbench alone: a
    larger set begins with the smaller one, and any number of ``workers`` (default: the cores at hand) makes the same bytes.

    The set is written to ``data_root()/name``, or to ``out`` (a folder, or a name under ``data_root()``). A set that is
    there already with the same settings is returned at once. An interrupted call goes on where it stopped.

    Raises UnknownNameError for unknown names; DataError for bad sizes and where another set is in the way; GenerationError
    where the disk is too small, a worker dies or another process makes the same set; ArtefactError where the disk is full.
    """
    from steerflow.envs.tasks import canonical_data_name

    name = canonical_data_name(name)
    settings = official_settings(name)
    counts = {"train": _training_episodes(settings, episodes, transitions)}
    if not 0 <= val_fraction <= 1:
        raise DataError(f"val_fraction must lie between 0 and 1, not at {val_fraction}.")
    counts["val"] = max(1, round(val_fraction * counts["train"])) if val_fraction > 0 else 0
    path = Path(name if out is None else out)
    target = path if path.is_absolute() or len(path.parts) > 1 else data_root() / path
    return generate(name, settings, counts, seed=seed, workers=workers, target=target)


def generate(
    name: str, settings: Settings, counts: Mapping[str, int], *, seed: int, workers: int | None, target: Path
) -> DataSet:
    """``make_data`` with other settings than the official ones; ``counts`` are the episodes of each split."""
    if seed < 0:
        raise DataError(f"The seed must not be negative, not {seed}.")
    if workers is not None and workers < 1:
        raise DataError(f"At least one worker is needed, not {workers}.")
    sources = {
        split: {
            "kind": "generated",
            "name": name,
            "settings": json.loads(json.dumps(asdict(settings))),
            "seed": seed,
            "split": split,
            "episodes": counts[split],
            "versions": {n: v for n, v in package_versions().items() if n in _VERSIONS},
        }
        for split in SPLITS
        if counts[split]
    }
    if (found := _finished(target, sources)) is not None:
        return found
    with _locked(target):
        if (found := _finished(target, sources)) is not None:
            return found
        plan = Plan(name, settings, seed, _parts_folder(target) / _key(sources["train"]))
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
            # What a killed call left half written.
            for split in SPLITS:
                for rest in target.glob(f".{split}.*.tmp"):
                    shutil.rmtree(rest, ignore_errors=True)
        except OSError as error:
            raise GenerationError(
                f"Could not write to {target.parent}: {error.strerror}. Choose another out."
            ) from error
        parts = [part for split in SPLITS for part in _parts(split, counts[split], settings.rows)]
        facts = _generate_parts(plan, parts, settings.rows, workers or usable_cores())
        # The training store last: a data set without one is no data set.
        for split in reversed(SPLITS):
            if counts[split]:
                own = [part for part in parts if part.split == split]
                _assemble(plan, own, target / split, facts, sources[split], counts[split] * settings.rows)
        shutil.rmtree(_parts_folder(target), ignore_errors=True)
    return DataSet.open(target)


def _generate_parts(plan: Plan, parts: list[Part], rows: int, workers: int) -> Facts:
    missing = [part for part in parts if not part.path(plan.folder).exists()]
    facts_path = plan.folder / _FACTS
    if not missing and facts_path.exists():
        known = read_json(facts_path)
        return Facts(tuple(known["action_low"]), tuple(known["action_high"]), known["widths"])
    total = rows * sum(part.last - part.first for part in parts)
    done = total - rows * sum(part.last - part.first for part in missing)
    facts = None
    try:
        with (
            bar(f"Generating {plan.name}", total, done) as progress,
            closing(fill_parts(plan, missing, workers)) as events,
        ):
            for event in events:
                if event[0] == "facts":
                    facts = event[1]
                    _require_space(plan.folder, (total - done) + total, sum(facts.widths.values()))
                    write_json(facts_path, asdict(facts))
                else:
                    done += event[1]
                    progress.update(done)
    except KeyboardInterrupt:
        console().print(f"Stopped. {KEPT}")
        raise
    assert facts is not None
    return facts


def _assemble(plan: Plan, parts: list[Part], path: Path, facts: Facts, source: Mapping[str, Any], rows: int) -> None:
    with (
        StoreWriter(path, action_low=facts.action_low, action_high=facts.action_high, source=source) as writer,
        bar(f"Writing {path.parent.name}/{path.name}", rows) as progress,
    ):
        for part in parts:
            for episode in part.read(plan.folder):
                writer.append(episode)
            progress.update(part.last / parts[-1].last * rows)
        writer.commit()


def _training_episodes(settings: Settings, episodes: int | None, transitions: int | None) -> int:
    if episodes is not None and transitions is not None:
        raise DataError("Give episodes or transitions, not both.")
    if transitions is not None:
        episodes = -(-transitions // (settings.rows - 1))
    if episodes is None:
        return settings.episodes
    if episodes < 1:
        raise DataError("A data set needs at least one episode.")
    return episodes


def _parts(split: str, episodes: int, rows: int) -> list[Part]:
    size = max(1, _PART_ROWS // rows)
    return [Part(split, first, min(first + size, episodes)) for first in range(0, episodes, size)]


def _parts_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.parts")


def _key(source: Mapping[str, Any]) -> str:
    """What part files depend on: not on the size, so that a larger set goes on from a smaller one's parts."""
    fields = [source[f] for f in ("name", "settings", "seed", "versions")]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _finished(target: Path, sources: Mapping[str, Mapping[str, Any]]) -> DataSet | None:
    """The data set at ``target`` if it is the wanted one; raises DataError if it is another one."""
    if not (target / "train" / META).exists():
        return None
    found = DataSet.open(target)
    there: dict[str, Store | None] = {"train": found.train, "val": found.val}
    differences = []
    for split, store in there.items():
        has = store.meta["source"] if store is not None else {"episodes": 0}
        wants = sources.get(split, {"episodes": 0})
        for field in ("kind", "name", "seed", "settings", "episodes") if split == "train" else ("episodes",):
            if has.get(field) != wants[field]:
                differences.append(_difference(split, field, has.get(field), wants[field]))
    if not differences:
        return found
    raise DataError(
        f"{target} already holds another data set ({'; '.join(differences)}). Give another place, such as "
        f"--out {target.name}-2 (in Python: out={target.name + '-2'!r}), or remove that folder."
    )


def _difference(split: str, field: str, has: Any, wants: Any) -> str:
    if isinstance(has, Mapping) and isinstance(wants, Mapping):
        return ", ".join(
            f"{k} {has.get(k)!r} there, {wants.get(k)!r} asked for" for k in wants if has.get(k) != wants[k]
        )
    label = f"{split} {field}" if field == "episodes" else field
    return f"{label} {has!r} there, {wants!r} asked for"


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
        with lock:
            yield
    except Timeout as error:
        raise BusyError(f"Another process is making {target} right now. Wait for it, or give another --out.") from error


def _require_space(folder: Path, rows: int, bytes_per_row: int) -> None:
    """Part files and stores lie side by side until the end."""
    needed, free = rows * bytes_per_row * 1.02 + 2**20, shutil.disk_usage(folder).free
    if needed > free:
        raise GenerationError(
            f"This needs {needed / 1e9:.2f} GB of free disk at {folder.parent.parent}, and {free / 1e9:.2f} GB are free. "
            "Free some space, give another --out, or make less (--transitions)."
        )
