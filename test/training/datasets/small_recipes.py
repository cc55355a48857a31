# SPDX-License-Identifier: Apache-2.0
"""The shipped recipes of published sets for a network and pictures that a test can afford."""

import yaml

from mlesam_ros.resources import resource_path
from mlesam_ros.types import MODALITIES

SIZE = (64, 80)
BACKBONE = resource_path("weights/hiera_nano.safetensors")
RUNS = {"deliver": MODALITIES, "muses": ("camera", "event", "lidar"), "mcubes": ("camera", "aolp", "dolp", "nir")}


def tiny(name, root, path, **changes):
    """A shipped recipe for a network and pictures that a test can afford; everything else is as it ships."""
    fields = yaml.safe_load(resource_path(f"config/training/{name}.yaml").read_text())
    fields["data"] |= {"root": str(root)}
    fields["data"]["crops"] |= {"crop": 64}
    fields["model"] |= {"backbone": "hiera_nano", "rank": 2, "image_size": 64}
    fields |= {"backbone": str(BACKBONE), "epochs": 1, "warmup_epochs": 1, "batch": 2, "accumulate": 1, "threads": 1}
    fields |= {"workers": 1, "log_every": 1, "robustness": False, "precision": "fp32", "device": "cpu"}
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(fields))
    return path
