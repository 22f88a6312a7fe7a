"""Official OGBench data sets by name: downloaded from a list of mirrors, then imported."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from filelock import FileLock

from steerflow.artefact import META
from steerflow.data.convert.folder import data_folder
from steerflow.data.convert.importer import import_data
from steerflow.data.fetch import fetch
from steerflow.data.store import DataSet
from steerflow.envs.tasks import canonical_data_name
from steerflow.errors import ArtefactError, DataError, unknown

# Tried in this order. The first is the authors' host; the second, on Hugging Face, has no sets of 10M and more but
# publishes checksums. The host answers plain http where its https redirects to a page that is gone.
MIRRORS = (
    "https://rail.eecs.berkeley.edu/datasets/ogbench",
    "https://huggingface.co/datasets/zhouzypaul/ogbench_datasets/resolve/main",
    "http://rail.eecs.berkeley.edu/datasets/ogbench",
)

_SLICES = {"10m": 10, "100m": 100, "1b": 1000}
_MAKEABLE = re.compile(r"(cube|scene|puzzle).*-(play|noisy)|pointmaze-.*-(navigate|stitch)")


def official_names() -> list[str]:
    """The data sets of OGBench with state observations and 1M to 5M transitions."""
    families = {
        "pointmaze": ("medium", "large", "giant", "teleport"),
        "antmaze": ("medium", "large", "giant", "teleport"),
        "humanoidmaze": ("medium", "large", "giant"),
        "antsoccer": ("arena", "medium"),
    }
    mazes = [
        f"{f}-{size}-{kind}" for f, sizes in families.items() for size, kind in product(sizes, ("navigate", "stitch"))
    ]
    explore = [f"antmaze-{size}-explore" for size in ("medium", "large", "teleport")]
    cubes = [f"cube-{number}" for number in ("single", "double", "triple", "quadruple")]
    puzzles = [f"puzzle-{size}" for size in ("3x3", "4x4", "4x5", "4x6")]
    return sorted(
        [*mazes, *explore, *(f"{f}-{kind}" for f in (*cubes, "scene", *puzzles) for kind in ("play", "noisy"))]
    )


def get_data(
    name: str,
    *,
    out: Path | str | None = None,
    mirrors: Sequence[str] = MIRRORS,
    checksums: Mapping[str, str] | None = None,
    slices: int | None = None,
    keep: bool = False,
    force: bool = False,
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> DataSet:
    """Download an official data set and import it to ``out`` (``data_root()/name``); returns at once if it is there already.

    ``name``: ``cube-single-play``, or with a size, ``cube-triple-play-100m`` (slices of 1M; ``slices`` takes the first few).
    ``checksums``: file name to sha256, used instead of what a mirror publishes. The downloaded files lie in ``.downloads``
    beside ``out`` until they are imported (for good with ``keep``); interrupted, the same command goes on where it stopped.
    Raises UnknownNameError with the nearest names; DataError saying what each mirror answered and what to do instead.
    """
    name = canonical_data_name(name)
    base, size = _require_known(name)
    out = data_folder(name, out)
    downloads = out.parent / ".downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"Could not write to {downloads}: {error.strerror or error}. Choose another folder."
        ) from error
    folder = downloads / name
    # A second process waits here, and then finds what the first one made.
    with FileLock(downloads / f"{name}.lock"):
        if (out / "train" / META).exists() and not force:
            return DataSet.open(out)
        files = _files(base, size, slices)
        for number, file in enumerate(files):
            hint = _hint(name, file)
            fetch(
                [f"{mirror.rstrip('/')}/{file}" for mirror in mirrors],
                folder / Path(file).name,
                sha256=(checksums or {}).get(Path(file).name),
                magic=b"PK\x03\x04",
                hint=hint if number == 0 else f"{number} of {len(files)} files are here and kept. {hint}",
                attempts=attempts,
                timeout=timeout,
                pause=pause,
            )
        source = folder if size else folder / Path(files[0]).name
        data = import_data(source, name=name, format="ogbench", out=out, force=force)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return data


def _require_known(name: str) -> tuple[str, str | None]:
    """(name without size, size) of a known data set."""
    if name.startswith("visual-") or "powderworld" in name:
        raise DataError(
            f"{name} has pixel observations, which are not supported. Use a data set of states: cube-single-play."
        )
    match = re.fullmatch(rf"(.+?)-({'|'.join(_SLICES)})", name)
    base, size = (match[1], match[2]) if match else (name, None)
    # The eight cubes exist in the large sizes only.
    known = [*official_names(), *(["cube-octuple-play", "cube-octuple-noisy"] if size else [])]
    if base not in known:
        raise unknown(
            "official data set",
            name,
            official_names(),
            "Sizes: add -100m (not all exist). Own data: steerflow data import.",
        )
    return base, size


def _files(base: str, size: str | None, slices: int | None) -> list[str]:
    """Names of the files below a mirror's address, as OGBench publishes them."""
    if size is None:
        return [f"{base}-v0.npz", f"{base}-v0-val.npz"]
    count = min(slices or _SLICES[size], _SLICES[size])
    stems = [f"{base}-{size}-v0/{base}-v0-{number:03d}" for number in range(count)]
    return [f"{stem}{ending}.npz" for stem in stems for ending in ("", "-val")]


def _hint(name: str, file: str) -> str:
    make = (
        f"Make it on this machine instead: steerflow data make {name}\nOr"
        if _MAKEABLE.fullmatch(name)
        else "Without network,"
    )
    return f"{make} copy {Path(file).name} here from another machine: steerflow data import FILE --name {name}"
