# SPDX-License-Identifier: Apache-2.0
"""Errors and findings are one line of limited length, whatever they quote."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_bag import write_small_bag
from tiny_model import write_tiny_model

from mlesam_ros import errors
from mlesam_ros.bags.calibrated_frame import read_pcd
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import load_parameters
from mlesam_ros.errors import MAX_TEXT_LENGTH, MlesamError, format_error
from mlesam_ros.geometry.rig import load_rig
from mlesam_ros.geometry.validation import validate_rig
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_ros.resources import resource_path
from mlesam_ros.strict_yaml import read_yaml
from mlesam_training.recipe import load_recipe

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MlesamError)]


@pytest.mark.parametrize("kind", ALL)
def test_line_breaks_are_removed(kind):
    error = kind("known frames are a\nb, c\r\u2028d; publish it.")
    assert str(error) == "known frames are a b, c d; publish it."
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("kind", [MlesamError, RuntimeError])
def test_long_text_is_shortened_in_the_middle(kind):
    text = format_error(kind(f"model {'x' * 100_000} is unknown; use plumb_bob."))
    assert len(text) < MAX_TEXT_LENGTH + 50 and "model xxx" in text and text.endswith("xxx is unknown; use plumb_bob.")
    exact = "y" * MAX_TEXT_LENGTH
    assert str(MlesamError(exact)) == exact and len(str(MlesamError(exact + "y"))) == MAX_TEXT_LENGTH


LONG = st.text(min_size=1, max_size=20).map(lambda text: (text * 10_000)[:10_000])
"""Ten thousand characters of any kind."""


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Every (path, whether its key is meant) at which a text can stand in YAML or JSON."""
    if isinstance(tree, dict):
        yield from (((*path, key), True) for key in tree)
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in parts:
        yield (*path, key), False
        yield from places(below, (*path, key))


def put(tree: Any, place: tuple[tuple[Any, ...], bool], text: str) -> Any:
    """The tree with a text at a place."""
    (*above, last), is_key = place
    inner = tree
    for key in above:
        inner = inner[key]
    if is_key:
        inner[text] = inner.pop(last)
    else:
        inner[last] = text
    return tree


def said_of_rig(path: Path) -> list[str]:
    found = validate_rig(read_yaml(path))
    said = [text for finding in found for text in (finding.subject, finding.message, finding.remedy)]
    try:
        load_rig(path)
    except MlesamError as error:
        return [*said, str(error), error.message, error.remedy]
    return said


def said_of_bag(path: Path) -> list[str]:
    with BagReader(path.parent) as bag:
        return list(bag.warnings)


READERS = {
    "rigs": said_of_rig,
    "labels": lambda path: load_label_space(path) and [],
    "params": lambda path: list(load_parameters(path).warnings),
    "training": lambda path: load_recipe(path) and [],
    "metadata": said_of_bag,
}
"""Kind of YAML file → what reads it and returns what it says besides an error."""


def check_said(read: Any, *arguments: Any) -> None:
    """Whatever a reader says is one line of at most `MAX_TEXT_LENGTH` characters."""
    try:
        said = read(*arguments) or []
    except MlesamError as error:
        said = [str(error), error.message, error.remedy]
    for text in said:
        assert len(text) <= MAX_TEXT_LENGTH and len(text.splitlines()) <= 1, (len(text), text[:200])


@settings(max_examples=200, deadline=None, phases=(Phase.generate,))
@given(st.sampled_from(sorted(READERS)), LONG, st.data())
def test_long_text_in_a_file_is_shortened(tmp_path_factory, kind, text, data):
    """Kind: a key or value of a file that a message prints whole, as an error's field or in a finding or warning."""
    folder = tmp_path_factory.getbasetemp() / "long_texts"
    if not folder.exists():
        write_small_bag(folder, 2)
    shipped = {path.stem: path for path in resource_path(f"config/{kind}").glob("*.yaml")} if kind != "metadata" else {}
    path = folder / f"{kind}.yaml"
    if shipped:
        good = shipped[data.draw(st.sampled_from(sorted(shipped)))].read_text(encoding="utf-8")
    else:
        kept = folder / "metadata.kept"
        good = (kept if kept.exists() else path).read_text(encoding="utf-8")
        kept.write_text(good, encoding="utf-8")
    tree = yaml.safe_load(good)
    place = data.draw(st.sampled_from(list(places(tree))))
    path.write_text(yaml.safe_dump(put(tree, place, text)), encoding="utf-8")
    check_said(READERS[kind], path)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "POINTS", "DATA"]), LONG)
def test_long_text_in_a_pcd_header_is_shortened(tmp_path_factory, key, text):
    fields = {"VERSION": "0.7", "FIELDS": "x y z", "SIZE": "4 4 4", "TYPE": "F F F", "COUNT": "1 1 1", "WIDTH": "1"}
    header = {**fields, "HEIGHT": "1", "POINTS": "1", "DATA": "ascii", key: text}
    path = tmp_path_factory.getbasetemp() / "long.pcd"
    path.write_text("".join(f"{name} {value}\n" for name, value in header.items()) + "1 2 3\n", encoding="utf-8")
    check_said(lambda: read_pcd(path) and [])


def test_long_text_in_a_checkpoint_is_shortened(tmp_path):
    """At every place of the description that a checkpoint's header holds."""
    good = Path(write_tiny_model(tmp_path)["checkpoint"])
    tensors = load_file(good)
    with safe_open(good, "np") as file:
        header = file.metadata()
    texts = {key: json.loads(value) for key, value in header.items()}
    tried = 0
    for key, content in texts.items():
        listed = [((), False), *places(content)]
        for place in listed[:: max(len(listed) // 12, 1)]:
            changed = put(json.loads(header[key]), place, "x" * 10_000) if place[0] else "x" * 10_000
            path = tmp_path / "long.safetensors"
            save_file(tensors, path, {**header, key: json.dumps(changed)})
            check_said(lambda path=path: describe_checkpoint(path) and [])
            tried += 1
    assert tried > 5
