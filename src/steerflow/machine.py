"""What this process may use of the machine: cores and memory, with the limits that a container sets."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

_CGROUP, _CPUINFO = Path("/sys/fs/cgroup"), Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Cores that this process may run on: its affinity, and a container's quota rounded up; at least 1.

    NPROC, which XLA's threads on the CPU follow, lowers it: so a job on a shared machine keeps to its share.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups("cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    if (share := os.environ.get("NPROC", "")).isdigit():
        cores = min(cores, int(share))
    return max(1, cores)


def free_memory() -> int | None:
    """Bytes that this process can still take without swapping, or None where that cannot be told."""
    available = None
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    if available is None:
        return None
    for folder in _cgroups("memory"):
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if not limit:
            limit, used = _read(folder / "memory.limit_in_bytes"), _read(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            available = min(available, max(0, int(limit) - int(used)))
    return available


def multiplies_bfloat16() -> bool | None:
    """Whether the processor has instructions for products of bfloat16, or None where its instructions are not told.

    Those of Intel's matrix units (AMX) or of AVX-512's vectors.
    """
    flags = _of_processor("flags").split()
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags) if flags else None


def machine() -> dict[str, Any]:
    """What figures are measured on: the processor, the cores that may be used, and jax's device."""
    import jax

    model = _of_processor("model name")
    # In a virtual machine that is often the maker's name alone.
    if numbers := [f"{name} {value}" for name in ("cpu family", "model", "stepping") if (value := _of_processor(name))]:
        model += f" ({', '.join(numbers)})"
    device = jax.devices()[0]
    return {
        "processor": f"{platform.machine()} {model}".strip(),
        "cores": usable_cores(),
        "device": f"{device.platform} {device.device_kind}",
        "python": platform.python_version(),
    }


def _of_processor(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; "" where there is none."""
    fields = (line.partition(":") for line in _read(_CPUINFO).splitlines())
    return next((value.strip() for field, _, value in fields if field.strip() == name), "")


def _cgroups(controller: str) -> list[Path]:
    """Folders of this process's control group (version 2 or 1) and of those above it."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, place = line.split(":", 2)
        if names == "" and (_CGROUP / "cgroup.controllers").exists():
            root = _CGROUP
        elif controller in names.split(","):
            root = _CGROUP / names
        else:
            continue
        own = root / place.lstrip("/")
        return [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
