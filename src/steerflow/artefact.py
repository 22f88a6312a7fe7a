"""An artefact on disk: a folder with ``tensors.safetensors`` and ``meta.json``; written whole or not at all; no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from steerflow.errors import ArtefactError

FORMAT = 1
TENSORS, META = "tensors.safetensors", "meta.json"
_PACKAGES = ("steerflow", "jax", "equinox", "optax", "numpy", "mujoco", "gymnasium", "ogbench")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result can depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or not at all: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtefactError(
            f"Could not write {path}: {error.strerror or error}. Free some space or choose another folder."
        ) from error


def write_json(path: Path, data: Any) -> None:
    write_bytes(path, (json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} does not exist.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtefactError(
            f"{path} is not valid JSON ({error}); it was truncated or edited. Restore it or make it again."
        ) from error
    if not isinstance(data, dict):
        raise ArtefactError(f"{path} holds no JSON object; it is not a file of steerflow's.")
    return data


def write_artefact(folder: Path, kind: str, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write or replace the artefact at ``folder`` atomically.

    ``kind`` ("policy", "critic", "checkpoint") is checked when it is read. Equal input gives equal bytes.
    """
    folder = Path(folder)
    data = save_tensors({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})
    full = {
        **meta,
        "format": FORMAT,
        "kind": kind,
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": package_versions(),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    previous = folder.with_name(f".{folder.name}.previous")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_bytes(temporary / TENSORS, data)
        write_json(temporary / META, full)
        if folder.exists():
            # A folder cannot replace a full one in one step; read_artefact finds the previous one in between.
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
        os.replace(temporary, folder)
    except OSError as error:
        raise ArtefactError(
            f"Could not write {folder}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


def read_artefact(folder: Path, *kinds: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and meta data of the artefact at ``folder``; raises ArtefactError if missing, damaged or of none of ``kinds``."""
    folder, wanted = Path(folder), " or ".join(kinds)
    previous = folder.with_name(f".{folder.name}.previous")
    if not folder.exists() and previous.exists():
        folder = previous
    if not (folder / META).exists():
        raise ArtefactError(f"There is no {wanted} at {folder}. Train one first: steerflow train {kinds[0]} --help")
    meta = read_json(folder / META)
    if meta.get("format") != FORMAT or "kind" not in meta or "sha256" not in meta:
        raise ArtefactError(
            f"{folder / META} is not of format {FORMAT} (found {meta.get('format')!r}); another program or version made it."
        )
    if meta["kind"] not in kinds:
        raise ArtefactError(f"{folder} holds: {meta['kind']}. Needed here: {wanted}.")
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise ArtefactError(f"Could not read {folder / TENSORS}: {error.strerror or error}.") from error
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise ArtefactError(
            f"{folder / TENSORS} does not match its checksum: it was truncated or edited. Restore it or train again."
        )
    try:
        return load_tensors(data), meta
    except SafetensorError as error:
        raise ArtefactError(f"{folder / TENSORS} is not a safetensors file ({error}).") from error
