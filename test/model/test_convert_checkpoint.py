# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of format 1: refused with the command that converts them, and equal afterwards."""

import json
import shlex
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mlesam_ros.errors import CheckpointError
from mlesam_ros.model.checkpoint import load_checkpoint, save_backbone, save_checkpoint
from mlesam_ros.model.convert_checkpoint import convert_checkpoint

FORMAT_1_KEYS = {"preprocessors": "encoders", "normalization": "statistics", "renormalize": "renormalise"}


@pytest.fixture
def format_1(make_model, tmp_path):
    """A checkpoint of format 1, as the first version wrote it, with the model and its base weights."""
    model = make_model(normalization={"camera": ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))}, renormalize=False)
    base, path = tmp_path / "base.safetensors", tmp_path / "old.safetensors"
    save_backbone(base, model.backbone)
    save_checkpoint(path, model, {"miou": 0.5})
    about = metadata(path)
    about |= {"format": 1, "config": {FORMAT_1_KEYS.get(k, k): v for k, v in about["config"].items()}}
    save_file(load_file(path), path, {"mlesam": json.dumps(about)})
    return model, base, path


def metadata(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["mlesam"])


def test_error_names_the_command_that_converts(format_1, make_images, tmp_path):
    model, base, path = format_1
    with pytest.raises(CheckpointError, match="is of checkpoint format 1; this version reads format 2") as refused:
        load_checkpoint(path, base)
    _, *command = shlex.split(refused.value.problem.remedy.split(": ", 1)[1])
    command[-1] = str(tmp_path / command[-1])
    subprocess.run([sys.executable, *command], check=True, timeout=120)

    again, images = load_checkpoint(command[-1], base), make_images()
    assert again.config == model.config and not again.config.renormalize
    with torch.inference_mode():
        assert torch.equal(again(images).fused, model(images).fused)


def test_conversion_keeps_tensors_and_other_metadata(format_1, tmp_path):
    _, _, path = format_1
    convert_checkpoint(path, new := tmp_path / "new.safetensors")
    before, after = load_file(path), load_file(new)
    assert list(before) == list(after) and all(torch.equal(before[n], after[n]) for n in before)
    old, now = metadata(path), metadata(new)
    assert now.pop("format") == 2 and old.pop("format") == 1
    assert list(old.pop("config").values()) == list(now.pop("config").values())
    assert now == old


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "only format 1 is converted"),
        ({"format": None}, "only format 1"),
        ({"config": 3}, "no configuration of a model"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(format_1, tmp_path, change, sentence):
    _, _, path = format_1
    save_file(load_file(path), path, {"mlesam": json.dumps(metadata(path) | change)})
    with pytest.raises(CheckpointError, match=sentence):
        convert_checkpoint(path, tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()
