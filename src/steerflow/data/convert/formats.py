"""The formats that can be imported, and how to tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from steerflow.data.convert.arrays import HDF5_SUFFIXES, open_arrays
from steerflow.data.convert.lerobot import open_lerobot
from steerflow.data.convert.minari import open_minari
from steerflow.data.convert.npz import npz_columns
from steerflow.data.convert.ogbench import looks_like_ogbench, ogbench_val, open_ogbench
from steerflow.data.convert.recording import Recording
from steerflow.errors import DataError, unknown

FORMATS = ("auto", "ogbench", "arrays", "minari", "lerobot")


def open_recording(source: Path | str, format: str = "auto", mapping: Mapping[str, str] | None = None) -> Recording:
    """Open ``source`` in a format of ``FORMATS``; "auto" looks at the files. Nothing is read but headers."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    kind = detect(source, mapping) if format == "auto" else format
    if kind == "minari":
        return open_minari(source, mapping)
    path = Path(source)
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    if kind == "ogbench":
        if mapping:
            raise DataError("OGBench files need no mapping. For a file with other columns: --format arrays --map ...")
        return open_ogbench(path)
    if kind == "arrays":
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the npz or HDF5 file.")
        return open_arrays(path, mapping)
    return open_lerobot(path, mapping)


def open_val(
    recording: Recording, source: Path | str, format: str, val: Path | str | None, mapping
) -> Recording | None:
    """The validation recording: the one asked for, or the ``-val`` files beside an OGBench source."""
    if val is not None:
        return open_recording(val, recording.format if format == "auto" else format, mapping)
    return ogbench_val(Path(source)) if recording.format == "ogbench" else None


def detect(source: Path | str, mapping: Mapping[str, str] | None = None) -> str:
    """The format of a file or folder; raises DataError that names the choices where it cannot be told."""
    path = Path(source)
    choices = "Say which format it is: --format " + ", ".join(FORMATS[1:]) + "."
    if path.is_dir():
        if (path / "data" / "metadata.json").exists() or (path / "metadata.json").exists():
            return "minari"
        if (path / "meta" / "info.json").exists() or any(path.rglob("*.parquet")):
            return "lerobot"
        if any(path.glob("*.npz")):
            return "ogbench"
        raise DataError(f"{path} holds no npz, parquet or Minari files. {choices}")
    suffix = path.suffix.lower()
    if not path.exists():
        hint = " If it is the id of a Minari data set: --format minari." if suffix == "" else ""
        raise DataError(f"There is no file or folder {path}.{hint}")
    if suffix == ".parquet":
        return "lerobot"
    if suffix == ".npz":
        return "ogbench" if not mapping and looks_like_ogbench(npz_columns(path)) else "arrays"
    if suffix in HDF5_SUFFIXES:
        return "arrays"
    raise DataError(f"{path} ends in {suffix or 'nothing'}, which is none of .npz, .hdf5, .h5, .parquet. {choices}")
