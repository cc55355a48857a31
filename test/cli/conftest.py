# SPDX-License-Identifier: Apache-2.0
"""Runs `mlesam` in this process; a checkpoint with random weights."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.model.checkpoint import save_backbone, save_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS


@dataclass(frozen=True)
class Weights:
    """Files of a random model.

    Attributes:
        path: experts.
        base: backbone.
    """

    path: Path
    base: Path


@pytest.fixture
def mlesam():
    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="mlesam")

    return run


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Weights:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = MLESAM(MLESAMConfig(rank=4, image_size=64, preprocessors=DEFAULT_PREPROCESSORS))
    save_checkpoint(folder / "experts.safetensors", model)
    save_backbone(folder / "base.safetensors", model.backbone)
    return Weights(folder / "experts.safetensors", folder / "base.safetensors")
