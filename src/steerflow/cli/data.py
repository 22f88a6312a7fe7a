"""``steerflow data {make,get,import,check,list}``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from steerflow.cli.shell import Command, dispatch, keeping, parse

_PLACE = "steerflow.cli.data"
COMMANDS = {
    "make": Command(f"{_PLACE}:make", "generate an OGBench set with scripted experts, at any size"),
    "get": Command(f"{_PLACE}:get", "download an official OGBench set"),
    "import": Command(f"{_PLACE}:import_", "convert npz, HDF5, Minari or LeRobot recordings"),
    "check": Command(f"{_PLACE}:check", "say what is wrong with a set, and what to do about it"),
    "list": Command(f"{_PLACE}:list_", "the sets that are here, and those that can be made or downloaded"),
}
_ABOUT = "Data sets are folders below ./data, or below $STEERFLOW_DATA where that is set."


_Name = Annotated[Positional[str], arg(metavar="NAME")]


@dataclass(frozen=True)
class Make:
    """Generate an OGBench data set with the official settings; the same bytes for any number of workers."""

    # Such as cube-single-play; an unknown name lists near ones.
    name: _Name
    # Size in transitions; by default the official size.
    transitions: int | None = None
    # Size in episodes, instead of transitions.
    episodes: int | None = None
    # Seed of the whole set.
    seed: int = 0
    # Processes; by default one for each core.
    workers: int | None = None
    # Folder, or name below the data folder, to write to; by default the set's name.
    out: str | None = None
    # Validation episodes as a fraction of the training episodes.
    val_fraction: float = 0.1


@dataclass(frozen=True)
class Get:
    """Download an official OGBench data set; an interrupted download goes on where it stopped."""

    # Such as cube-single-play, or with a size: cube-triple-play-100m.
    name: _Name
    # Folder to write to; by default the set's name below the data folder.
    out: Path | None = None
    # The first so many files of 1M transitions of a set with a size.
    slices: int | None = None
    # Addresses to try instead of the known ones, the best first.
    mirror: UseAppendAction[tuple[str, ...]] = ()
    # Keep the downloaded files.
    keep: bool = False
    # Replace a set that is there.
    force: bool = False


@dataclass(frozen=True)
class Import:
    """Convert recordings to a data set. Then look at it: steerflow data check NAME"""

    # File, folder or Minari id.
    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    # Name of the new data set.
    name: str
    # What the source is; "arrays" is an npz or HDF5 file of columns.
    format: Literal["auto", "ogbench", "arrays", "minari", "lerobot"] = "auto"
    # Which column is what, for example --map observations=obs/state; again for each column.
    map: UseAppendAction[tuple[str, ...]] = ()
    # A source of the same kind for validation; by default whole episodes are held out.
    val: Path | None = None
    # Episodes to hold out, as a fraction.
    val_fraction: float = 0.1
    # Which episodes are held out.
    seed: int = 0
    # Bounds of the actions: one number, or one for each dimension.
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    # Name of the task that the source's rewards belong to; by default the set's name.
    task: str | None = None
    # Folder to write to; by default the set's name below the data folder.
    out: Path | None = None
    # Replace another set that is there.
    force: bool = False


@dataclass(frozen=True)
class Check:
    """Say what is wrong with a data set. Exits with 1 if something makes it unusable."""

    # Name below the data folder, or a folder.
    name: _Name
    # Print JSON, for programs.
    json: bool = False


@dataclass(frozen=True)
class List:
    """The data sets that are here, and those that can be made or downloaded."""

    # Only names that contain this.
    part: Annotated[Positional[str], arg(metavar="PART")] = ""


def data(arguments: list[str]) -> None:
    dispatch("steerflow data", COMMANDS, arguments, _ABOUT)


def make(arguments: list[str]) -> None:
    config = parse(Make, arguments, prog="steerflow data make")
    keeping("Finished episodes are kept.")
    from steerflow.data.generate import make_data

    made = make_data(
        config.name,
        transitions=config.transitions,
        episodes=config.episodes,
        seed=config.seed,
        workers=config.workers,
        out=config.out,
        val_fraction=config.val_fraction,
    )
    print(made.train.path.parent)


def get(arguments: list[str]) -> None:
    config = parse(Get, arguments, prog="steerflow data get")
    keeping("What was downloaded is kept.")
    from steerflow.data.download import MIRRORS, get_data

    got = get_data(
        config.name,
        out=config.out,
        slices=config.slices,
        mirrors=config.mirror or MIRRORS,
        keep=config.keep,
        force=config.force,
    )
    print(got.train.path.parent)


def import_(arguments: list[str]) -> None:
    config = parse(Import, arguments, prog="steerflow data import")
    from steerflow.data.convert import import_data, parse_mapping

    imported = import_data(
        config.source,
        name=config.name,
        format=config.format,
        mapping=parse_mapping(config.map),
        val=config.val,
        val_fraction=config.val_fraction,
        seed=config.seed,
        action_low=_bound(config.action_low),
        action_high=_bound(config.action_high),
        task=config.task,
        out=config.out,
        force=config.force,
    )
    print(imported.train.path.parent)


def check(arguments: list[str]) -> None:
    config = parse(Check, arguments, prog="steerflow data check")
    from steerflow.data.check import check_data, summarise
    from steerflow.data.store import DataSet

    data = DataSet.open(config.name)
    facts, findings = summarise(data), check_data(data)
    if config.json:
        print(json.dumps({"summary": facts, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for split, f in facts.items():
            print(
                f"{split}: {f['transitions']:,} transitions in {f['episodes']:,} episodes of {f['length']['min']:,} to "
                f"{f['length']['max']:,} steps; {f['observation_dim']} observation and {f['action_dim']} action dimensions; "
                f"rewards of {len(f['tasks'])} task(s)"
            )
        for finding in findings:
            print(finding)
        if not findings:
            print("Nothing suspicious.")
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


def list_(arguments: list[str]) -> None:
    config = parse(List, arguments, prog="steerflow data list")
    from steerflow.data.download import official_names
    from steerflow.data.generate import available_names
    from steerflow.data.listing import list_data
    from steerflow.data.store import data_root

    found = [data for data in list_data() if config.part in data.name]
    print(f"In {data_root()}:" if found else f"In {data_root()}: nothing{' of that name' * bool(config.part)} yet.")
    for data in found:
        if data.problem is not None:
            print(f"  {data.name}: {data.problem}")
            continue
        tasks = f"; rewards of {', '.join(data.tasks)}" if data.tasks else ""
        print(
            f"  {data.name}: {data.transitions:,} transitions in {data.episodes:,} episodes, "
            f"{data.val_episodes:,} for validation, {data.bytes / 1e6:,.0f} MB{tasks}"
        )
    makeable, official = set(available_names()), set(official_names())
    for title, names in (
        ("steerflow data make NAME, or get NAME", makeable & official),
        ("steerflow data make NAME", makeable - official),
        ("steerflow data get NAME", official - makeable),
    ):
        names = sorted(name for name in names if config.part in name)
        if names:
            print(f"\n{title}:\n  " + "\n  ".join(names))


def _bound(values: tuple[float, ...]) -> float | tuple[float, ...] | None:
    return values[0] if len(values) == 1 else values or None
