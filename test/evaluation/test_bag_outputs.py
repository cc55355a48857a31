# SPDX-License-Identifier: Apache-2.0
"""Search for bags, and names of output folders."""

from pathlib import Path

import pytest

from mlesam_ros.errors import BagError
from mlesam_ros.evaluation.bag_outputs import find_bags, unique_names


@pytest.fixture
def tree(tmp_path):
    for file in (
        "a/metadata.yaml", "a/a_0.mcap", "b/deep/metadata.yaml", "b/deep/deep_0.db3", "parts/drive_0.mcap",
        "parts/drive_1.mcap", "loose/monday.mcap", "loose/tuesday.db3", "loose/notes.txt", "packed/run.mcap.zstd",
        "empty/readme.md", ".hidden/x.mcap",
    ):  # fmt: skip
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def found(tree, *names):
    return [str(bag.relative_to(tree)) for bag in find_bags([tree / name for name in names])]


def test_bags_in_a_folder_are_found(tree):
    assert found(tree, "") == ["a", "b/deep", "loose/monday.mcap", "loose/tuesday.db3", "packed", "parts"]


@pytest.mark.parametrize(
    ("given", "bags"),
    [
        (["a"], ["a"]),
        (["b"], ["b/deep"]),
        (["parts"], ["parts"]),
        (["loose", "a"], ["loose/monday.mcap", "loose/tuesday.db3", "a"]),
        (["loose/tuesday.db3", "loose"], ["loose/tuesday.db3", "loose/monday.mcap"]),
        (["a", "a"], ["a"]),
    ],
)
def test_each_bag_is_listed_once_in_order(tree, given, bags):
    assert found(tree, *given) == bags


def test_two_paths_of_one_bag_are_one_bag(tree, monkeypatch):
    """Otherwise the same masks would count twice in the summary."""
    monkeypatch.chdir(tree)
    (tree / "link").symlink_to(tree / "a")
    given = [Path("a"), tree / "a", tree / "link", tree / "loose" / ".." / "a"]
    assert find_bags(given) == [Path("a")]
    assert find_bags(given[::-1]) == [given[3]]


def test_missing_bag_is_an_error(tree):
    with pytest.raises(BagError, match="contains no bag"):
        find_bags([tree / "empty"])
    with pytest.raises(BagError, match="does not exist"):
        find_bags([tree / "nowhere"])


def test_output_names_are_the_bags_names_and_unique(tree):
    (tree / "loose" / "a.db3").write_bytes(b"x")
    bags = [tree / name for name in ("a", "loose/a.db3", "loose/monday.mcap", "packed/run.mcap.zstd")]
    assert list(unique_names(bags).items()) == list(zip(["a", "a-2", "monday", "run"], bags, strict=True))
