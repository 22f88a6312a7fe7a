"""The files around the code say what the code says."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import steerflow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = ("constraints.txt", "constraints-dev.txt")


def pins(name: str) -> dict[str, set[str]]:
    """Pinned versions by package; a package has several where its version depends on the Python."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([^ ]+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_hold_versions_and_hashes_only(name):
    for line in (ROOT / name).read_text().splitlines():
        entry = re.fullmatch(r"[\w.-]+==[\w.]+( ; [\w .'<>=()]+)? \\", line)
        digest = re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert entry or digest, line


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_pin_every_requirement(name):
    wanted = {re.match(r"[\w.-]+", line)[0].lower() for line in PROJECT["dependencies"]}
    assert wanted <= pins(name).keys()


def test_both_constraints_agree():
    core, dev = pins("constraints.txt"), pins("constraints-dev.txt")
    assert core.items() <= dev.items()


def test_versions_agree():
    assert steerflow.__version__ == PROJECT["version"]
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_citation_names_the_paper():
    text = (ROOT / "CITATION.cff").read_text()
    assert "arXiv:2606.11087" in text
    assert text.startswith("cff-version: 1.2.0\n")


def test_typed_and_run_time_names_agree():
    tree = ast.parse(Path(steerflow.__file__).read_text())
    typed = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steerflow."):
            typed |= {name.asname: (node.module, name.name) for name in node.names}
    assert typed == {name: (module, name) for name, module in steerflow._HOME.items()}


@pytest.mark.parametrize("name", sorted(steerflow._HOME))
def test_every_public_name_is_there_and_documented(name):
    value = getattr(steerflow, name)
    assert name in dir(steerflow)
    assert isinstance(value, dict) or (value.__doc__ or "").strip()


def test_steer_is_a_function_and_a_package():
    from steerflow.steer.sample import sample

    assert steerflow.sample is sample
    assert callable(steerflow.steer)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = steerflow.nonsense
