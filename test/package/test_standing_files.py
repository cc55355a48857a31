# SPDX-License-Identifier: Apache-2.0
"""Files that others' tools read: bloom, Citation File Format, pre-commit, GitHub Actions."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from catkin_pkg.changelog import BulletList, get_changelog_from_path
from catkin_pkg.package import parse_package
from catkin_pkg.package_version import get_forthcoming_label, rename_section

tomllib = pytest.importorskip("tomllib")  # from Python 3.11
CHECKOUT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def read_yaml(name: str) -> dict:
    return yaml.safe_load((CHECKOUT / name).read_text("utf-8"))


def test_the_manifest_is_valid():
    package = parse_package(str(CHECKOUT), warnings=(warnings := []))
    package.validate(warnings=warnings)
    assert warnings == [] and package.version == VERSION
    assert package.authors and package.urls


def test_a_release_keeps_every_entry_of_the_changelog(tmp_path):
    """As catkin_prepare_release renames the section, and as bloom reads it: entries below headings are dropped."""
    text = (CHECKOUT / "CHANGELOG.rst").read_text("utf-8")
    released = rename_section(text, get_forthcoming_label(text), "0.1.0 (2026-01-31)")
    (tmp_path / "CHANGELOG.rst").write_text(released, "utf-8")
    ((version, _, changes),) = get_changelog_from_path(str(tmp_path)).foreach_version()
    assert version == "0.1.0"
    assert sum(len(list(part)) for part in changes if isinstance(part, BulletList)) == text.count("\n* ")


def test_the_citation_has_the_version():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == VERSION and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_pre_commit_checks_with_the_pinned_ruff_and_what_lint_runs():
    pins = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", (CHECKOUT / "requirements/dev.txt").read_text("utf-8"), re.MULTILINE)
    )
    ruff, local = read_yaml(".pre-commit-config.yaml")["repos"]
    assert ruff["rev"] == f"v{pins['ruff']}"
    lint = (CHECKOUT / "Makefile").read_text("utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    assert [hook["id"] for hook in ruff["hooks"]] == [f"ruff-{verb}" for verb in re.findall(r"ruff (\w+)", lint)]
    assert [hook["entry"] for hook in local["hooks"]] == [".venv/bin/mypy"]
    assert "$(BIN)/mypy" in lint


def test_the_workflow_runs_ci_with_pinned_actions():
    steps = read_yaml(".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)


def test_container_files_name_what_is_there():
    docker = (CHECKOUT / "docker/Dockerfile").read_text("utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", docker, re.MULTILINE)
    assert copied and all((CHECKOUT / name).exists() for names in copied for name in names.split())
    stages = re.split(r"^FROM ", docker, flags=re.MULTILINE)
    services = read_yaml("docker/compose.yaml")["services"]
    for service in services.values():
        if target := service.get("build", {}).get("target"):
            (stage,) = (text for text in stages if text.partition("\n")[0].endswith(f" AS {target}"))
            assert re.search(r"^USER (?!root|0\b)\w+$", stage, re.MULTILINE)
    assert {name: service["ipc"] for name, service in services.items()} == {
        "node": "shareable", "robot": "service:node", "foxglove": "service:node",
    }  # fmt: skip


@pytest.mark.parametrize(("state", "code"), [("active [3]", 0), ("inactive [2]", 1), ("Node not found", 1)])
def test_the_health_check_accepts_an_active_node_alone(tmp_path, state, code):
    ros2 = tmp_path / "ros2"
    ros2.write_text(
        f'#!/bin/sh\necho "[WARN] profile" >&2\n[ "$1 $2 $5" = "lifecycle get /left/mlesam" ] && echo "{state}"\n'
    )
    ros2.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MLESAM_NODE": "/left/mlesam"}
    done = subprocess.run(
        [CHECKOUT / "docker/is_active.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (code, state)
