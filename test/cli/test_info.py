# SPDX-License-Identifier: Apache-2.0
"""`mlesam info`: a checkpoint, or the backbones."""

import json
import re

import pytest

from mlesam_ros.model.backbones import BACKBONES


@pytest.fixture(scope="module")
def costs():
    from mlesam_ros.model.flops import backbone_costs

    return backbone_costs()


@pytest.fixture
def counted(monkeypatch, costs):
    """Counted once for all tests."""
    monkeypatch.setattr("mlesam_ros.model.flops.backbone_costs", lambda: costs)


def test_table_has_every_backbone(mlesam, counted):
    printed = mlesam("info", "--backbones").stdout
    assert re.findall(r"^\s*\| (\w+_\w+) ", printed, re.MULTILINE) == list(BACKBONES)


def test_json_of_the_backbones(mlesam, counted, costs):
    result = json.loads(mlesam("info", "--backbones", "--json", "-").stdout)
    assert (result["rank"], result["modalities"], result["classes"]) == (32, 4, 25)
    row = next(row for row in result["backbones"] if row["name"] == "hiera_base_plus")
    cost = next(cost for cost in costs if cost.name == "hiera_base_plus")
    assert row["parameters"] == {"encoder": cost.encoder, "expert": cost.expert, "trained": cost.trained}
    for side in (1024, 512):
        macs = row[f"gmacs_{side}"]
        assert macs["total"] == pytest.approx(macs["layers"] + macs["attention"], abs=2e-3)
        assert macs["total"] == pytest.approx(cost.macs[side].total / 1e9, abs=1e-3)


def test_sha_is_not_truncated(mlesam, tiny_checkpoint):
    from mlesam_ros.model.checkpoint import describe_checkpoint

    shown = re.sub(r"[│\s]", "", mlesam("info", tiny_checkpoint.path).stdout)
    assert describe_checkpoint(tiny_checkpoint.path)["base_sha256"] in shown


@pytest.mark.parametrize("arguments", [[], ["file.safetensors", "--backbones"]])
def test_file_and_backbones_are_exclusive(mlesam, arguments):
    result = mlesam("info", *arguments)
    assert result.exit_code == 2
    assert "FILE or --backbones" in result.output
