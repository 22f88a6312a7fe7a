"""``steerflow doctor``: what this machine can do, and what to type to mend it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from steerflow.cli.shell import parse

_MOST_SECONDS = 90
# Below these, the demo or a larger data set may not get through.
_DISK_GB, _MEMORY_GB = 5, 3

_DEVICES = """
import json, jax
print(json.dumps([[d.platform, d.device_kind] for d in jax.devices()]))
"""
_PICTURE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().max() > 0, "the picture is black"
"""
_STEP = """
import gymnasium, ogbench
env = gymnasium.make("cube-single-singletask-task2-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
"""


@dataclass(frozen=True)
class Doctor:
    """What this machine can do, and what to type to mend it. Exits with 1 only if the core does not work."""

    # Print JSON, for programs.
    json: bool = False


@dataclass(frozen=True)
class Finding:
    """One examined thing; ``mend`` is what to type where something is missing."""

    name: str
    # "ok", "missing" (something optional does not work) or "broken" (the core does not work).
    state: str
    value: str
    mend: str = ""


def doctor(arguments: list[str]) -> None:
    config = parse(Doctor, arguments, prog="steerflow doctor")
    findings = []
    for check in (_python, _packages, _cores, _memory, _disk, _devices, _simulator, _rendering, _extras):
        for finding in _examine(check):
            findings.append(finding)
            if not config.json:
                _show(finding)
    if config.json:
        print(json.dumps({"findings": [asdict(f) for f in findings]}, indent=2))
    if any(f.state == "broken" for f in findings):
        raise SystemExit(1)


def _examine(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:
        return [Finding(check.__name__.strip("_"), "missing", f"could not be told ({type(error).__name__}: {error})")]


def _show(finding: Finding) -> None:
    mark = {"ok": "✓", "missing": "–", "broken": "✗"}[finding.state]
    print(f"{mark} {finding.name:<11}{finding.value}", flush=True)
    if finding.mend:
        print(f"  {'':<11}→ {finding.mend}", flush=True)


def _python() -> list[Finding]:
    return [Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}, {sys.prefix}")]


def _packages() -> list[Finding]:
    """Versions of the requirements that are not behind an extra."""
    names = [re.match(r"[\w.-]+", line) for line in metadata("steerflow").get_all("Requires-Dist") or []
             if "extra ==" not in line]  # fmt: skip
    found, missing = [], []
    for name in ("steerflow", *(m.group() for m in names if m)):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return [Finding("packages", "broken", f"missing: {', '.join(missing)}", _pip(*missing))]
    return [Finding("packages", "ok", ", ".join(found))]


def _cores() -> list[Finding]:
    from steerflow.machine import usable_cores

    cores, present = usable_cores(), os.cpu_count() or 1
    few = f" of {present}; the others are not given to this process" if cores < present else ""
    return [Finding("cores", "ok", f"{cores}{few}")]


def _memory() -> list[Finding]:
    from steerflow.machine import free_memory

    free = free_memory()
    if free is None:
        return [Finding("memory", "missing", "could not be told on this system")]
    if free < _MEMORY_GB * 1e9:
        return [
            Finding(
                "memory", "missing", f"{free / 1e9:.1f} GB free", "close other programs, or train with --feed stream"
            )
        ]
    return [Finding("memory", "ok", f"{free / 1e9:.1f} GB free")]


def _disk() -> list[Finding]:
    root = Path(os.environ.get("STEERFLOW_DATA", "data")).absolute()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    value = f"{free:.0f} GB free for data in {root}"
    if not os.access(there, os.W_OK):
        return [Finding("disk", "missing", f"{there} cannot be written", "export STEERFLOW_DATA=/a/folder/of/yours")]
    if free < _DISK_GB:
        return [Finding("disk", "missing", value, "free some space, or export STEERFLOW_DATA=/a/larger/disk")]
    return [Finding("disk", "ok", value)]


def _devices() -> list[Finding]:
    code, out = _python_says(_DEVICES)
    if code != 0:
        again = (
            _pip("--force-reinstall", f"jax=={version('jax')}")
            + "  (a GPU's driver at fault? export JAX_PLATFORMS=cpu)"
        )
        return [Finding("jax", "broken", f"does not start: {out}", again)]
    devices: list[tuple[str, str]] = [tuple(device) for device in json.loads(out)]
    listed = ", ".join(f"{kind} ({name})" for name, kind in devices)
    idle = shutil.which("nvidia-smi") and all(name == "cpu" for name, _ in devices)
    if idle and os.environ.get("JAX_PLATFORMS", "") != "cpu":
        return [
            Finding(
                "jax", "missing", f"{listed}; the NVIDIA GPU here is not used", _pip(f"'jax[cuda13]=={version('jax')}'")
            )
        ]
    return [Finding("jax", "ok", listed)]


def _simulator() -> list[Finding]:
    code, out = _python_says(_STEP, MUJOCO_GL="disabled")
    if code != 0:
        return [
            Finding(
                "simulator",
                "broken",
                f"OGBench does not step: {out}",
                _pip("--force-reinstall", "--no-deps", "mujoco", "dm_control", "ogbench"),
            )
        ]
    return [Finding("simulator", "ok", f"OGBench {version('ogbench')} on MuJoCo {version('mujoco')} steps")]


def _rendering() -> list[Finding]:
    """Backends are chosen when mujoco is imported, and a driver may crash: each is tried in a process of its own."""
    backends = ("egl", "osmesa") if sys.platform.startswith("linux") else ("",)
    answers = {b or "window": _python_says(_PICTURE, MUJOCO_GL=b, PYOPENGL_PLATFORM=b) for b in backends}
    working = [name for name, (code, _) in answers.items() if code == 0]
    if working:
        return [Finding("pictures", "ok", f"OpenGL by {' and '.join(working)}")]
    reasons = "; ".join(f"{name}: {out}" for name, (_, out) in answers.items())
    mend = "sudo apt-get install libegl1 libgl1-mesa-dri (or libosmesa6)" if "egl" in backends else ""
    return [Finding("pictures", "missing", f"no OpenGL, so reports have no video ({reasons})", mend)]


def _extras() -> list[Finding]:
    findings = []
    for extra, packages, use in (
        ("import", ("h5py", "pyarrow"), "reading HDF5 and LeRobot recordings"),
        ("minari", ("minari",), "reading Minari data sets"),
        ("ray", ("ray",), "steerflow launch --on ray"),
        ("slurm", ("submitit",), "steerflow launch --on slurm"),
    ):
        missing = []
        for package in packages:
            try:
                version(package)
            except PackageNotFoundError:
                missing.append(package)
        if missing:
            findings.append(Finding(extra, "missing", f"{use} needs {', '.join(missing)}", _pip(*missing)))
        else:
            findings.append(Finding(extra, "ok", use))
    return findings


def _pip(*arguments: str) -> str:
    return " ".join([sys.executable, "-m", "pip", "install", *arguments])


def _python_says(code: str, **environment: str) -> tuple[int, str]:
    """(exit status, last line of output, or of the errors) of a Python process; an empty variable is unset."""
    variables = {**os.environ, **environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    variables = {name: value for name, value in variables.items() if value or name not in environment}
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_MOST_SECONDS} s"
    text = done.stdout if done.returncode == 0 else done.stderr
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return done.returncode, lines[-1][:300] if lines else f"exit status {done.returncode}"
