"""The harness of bench: programs of others, tables and their plot. What it measures is no test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import PARTS, other
from bench.measure import Other, Table
from bench.plot import draw


def test_the_start_up_of_a_program_of_others_cancels(tmp_path, monkeypatch):
    # By this clock the shorter run takes 0.5 s and the longer 0.9 s.
    clock = iter([0.0, 0.5, 1.0, 1.9])
    monkeypatch.setattr("bench.measure.time.perf_counter", lambda: next(clock))
    assert Other("training", "theirs", tmp_path, "echo {n} >> done", 20).rate() == pytest.approx(40 / 0.4)
    assert (tmp_path / "done").read_text().split() == ["20", "60"]


def test_a_program_of_others_stands_in_the_unit_of_its_group(monkeypatch):
    monkeypatch.setattr(Other, "rate", lambda self: 500.0)
    table = Table("acting", "Acting", {})
    for group, unit, ours in (("batch 1", "ms", 1.0), ("batch 8", "ms", 4.0), ("data", "chunks/s", 1500.0)):
        table.add(group, "read the weights", "limit", unit, [7.0])
        table.add(group, "qgf, the usual way", "usual", unit, [ours])
        table.add(group, "bc", "steerflow", unit, [0.1])
        table.add(group, "qgf", "steerflow", unit, [ours])
    for group in ("", "batch 8", "data"):
        Other("acting", "theirs", Path(), "run {n}", 10, group).measure(table)
    assert [table.groups[g][-1].median for g in table.groups] == [2.0, 2.0, 500.0]
    assert [table.ratios[f"{g}: times theirs"]["value"] for g in table.groups] == [2.0, 0.5, 3.0]
    with pytest.raises(RuntimeError, match="no group 'batch 9': batch 1, batch 8, data"):
        Other("acting", "theirs", Path(), "run {n}", 10, "batch 9").measure(table)


def test_a_program_of_others_that_fails_says_what_it_printed_last(tmp_path):
    with pytest.raises(RuntimeError, match=r"theirs ended with code 3:\nno such set"):
        Other("training", "theirs", tmp_path, "echo no such set {n}; exit 3", 1).rate()


def test_programs_of_others_are_read_from_the_command_line(tmp_path):
    read = other(f"acting|theirs|{tmp_path}|run --steps {{n}}|50")
    assert (read.part, read.group, read.folder, read.units) == ("acting", "", tmp_path, 50)
    assert other("acting/batch 8|theirs|.|run {n}|50").group == "batch 8"
    for wrong in ("acting|theirs|.|run|50", "cooking|theirs|.|run {n}|50", "acting"):
        with pytest.raises(Exception, match=f"PART.NAME.FOLDER.*{PARTS[0]}"):
            other(wrong)


def test_a_table_keeps_medians_and_is_drawn(tmp_path):
    table = Table("training", "Training", {"batch": 2})
    assert table.add("4x2", "steerflow", "steerflow", "updates/s", [3.0, 1.0, 2.0]) == 2
    table.add("4x2", "products alone", "limit", "updates/s", [4.0])
    table.ratio("share", 0.5, ">= 0.9")
    written = json.loads(json.dumps(table.to_json()))
    row = written["groups"]["4x2"][0]
    assert (row["median"], row["low"], row["high"], row["repeats"]) == (2, 1, 3, 3)
    assert written["ratios"]["share"] == {"value": 0.5, "target": ">= 0.9"}
    assert {"machine", "versions", "settings"} <= written.keys()
    draw(table, tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 5_000
