# SPDX-License-Identifier: Apache-2.0
"""Strict YAML: no objects, limits on size and depth, no duplicate keys."""

import time

import pytest
import yaml

from mlesam_ros.errors import ConfigError
from mlesam_ros.strict_yaml import parse_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "second key": ("a: 1\nb: 2\na: 3", "'a' is duplicated in line 3"),
    "object": ('a: !!python/object/apply:os.system ["exit 3"]', "could not determine a constructor"),
    "name": ("a: !!python/name:os.system", "could not determine a constructor"),
    "bomb": (BOMB, "more than 200000 values with aliases expanded"),
    "circle": ("a: &a [1, *a]", "the node in line 1 contains itself"),
    "merged circle": ("a: &a {<<: *a}", "contains itself"),
    "brackets": ("a: " + "[" * 3000, "nested deeper than 64 levels"),
    "dashes": ("- " * 3000, "nested deeper than 64 levels"),
    "digits": ("a: " + "1" * 6000, "line 1|integer string conversion"),
    "bits": ("a: 18446744073709551616", "exceeds 64 bits"),
    "date": ("a: 2020-02-30", "day"),
    "length": ("# " * 600_000, "1200000 characters"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_invalid_yaml_is_refused_with_a_reason(text, words, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match=words):
        parse_yaml(text)
    assert time.process_time() - start < 1
    with pytest.raises(ConfigError, match=r"the file \S+some\.yaml cannot be read: "):
        read_yaml(path, "the file")


def test_valid_yaml():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: -2}\nc: [*a, *a]") == {
        "a": {"x": 1}, "b": {"x": 1, "y": -2}, "c": [{"x": 1}, {"x": 1}],
    }  # fmt: skip
    assert parse_yaml("[" * 64 + "]" * 64) and parse_yaml("a: 18446744073709551615")["a"] == 2**64 - 1
    assert parse_yaml("") is None
