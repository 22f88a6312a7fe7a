"""What a container allows is what is used."""

import os

import pytest

from steerflow import machine


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Files of a control group of version 2, the process in /box/inner."""
    root = tmp_path / "cgroup"
    (root / "box" / "inner").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory")
    place = tmp_path / "place"
    place.write_text("0::/box/inner\n")
    monkeypatch.setattr(machine, "_CGROUP", root)
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: read(place if str(path) == "/proc/self/cgroup" else path))
    return root


def test_cores_are_those_of_the_affinity():
    assert machine.usable_cores() <= len(os.sched_getaffinity(0))
    assert machine.usable_cores() >= 1


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 8)])
def test_a_quota_of_any_enclosing_group_limits_cores(cgroup, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    (cgroup / "box" / "inner" / "cpu.max").write_text("max 100000")
    (cgroup / "box" / "cpu.max").write_text(quota)
    assert machine.usable_cores() == cores


def test_a_share_of_the_cores_is_kept_to(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(machine, "_cgroups", lambda _: [])
    for share, cores in (("3", 3), ("16", 8), ("0", 1), ("", 8), ("all", 8)):
        monkeypatch.setenv("NPROC", share)
        assert machine.usable_cores() == cores


def test_a_limit_on_memory_counts(cgroup):
    (cgroup / "box" / "memory.max").write_text("1000000")
    (cgroup / "box" / "memory.current").write_text("400000")
    assert machine.free_memory() == 600_000
    (cgroup / "box" / "memory.max").write_text("max")
    assert machine.free_memory() > 600_000


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ("flags\t\t: fma avx512_bf16 amx_bf16\n", True),
        ("flags\t\t: fma avx512_bf16\n", True),
        ("flags\t\t: fma avx512_vnni\n", False),
        ("Features : fp asimd\n", None),
    ],
)
def test_products_of_bfloat16_are_told_by_the_processor(tmp_path, monkeypatch, told, has):
    place = tmp_path / "cpuinfo"
    place.write_text(f"processor\t: 0\nmodel name\t: A Processor: X\n{told}")
    monkeypatch.setattr(machine, "_CPUINFO", place)
    assert machine.multiplies_bfloat16() is has
    assert machine.machine()["processor"].endswith("A Processor: X")


@pytest.mark.parametrize("stepping", [7, 8])
def test_processors_of_one_name_are_told_apart_by_their_numbers(tmp_path, monkeypatch, stepping):
    place = tmp_path / "cpuinfo"
    place.write_text(f"cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon(R)\nstepping\t: {stepping}\n")
    monkeypatch.setattr(machine, "_CPUINFO", place)
    assert machine.machine()["processor"].endswith(f"Xeon(R) (cpu family 6, model 143, stepping {stepping})")
