# SPDX-License-Identifier: Apache-2.0
"""A short street as a bag, and an untrained network whose masks depend on every sensor."""

import pytest
import torch
from drive import STEPS

from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    return write_simulated_bag(tmp_path_factory.mktemp("bags") / "street", World(3, "day", (64, 96)), range(STEPS))


@pytest.fixture(scope="session")
def pipeline():
    torch.manual_seed(5)
    model = MLESAM(MLESAMConfig(rank=4, image_size=64)).eval()
    with torch.no_grad():
        for modality in model.experts.modalities:
            for b in model.experts.expert(modality).b:
                b.normal_(std=0.1)
    return Pipeline(model, device="cpu", precision="fp32", threads=1)
