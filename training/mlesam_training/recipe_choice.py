# SPDX-License-Identifier: Apache-2.0
"""Choice of what a recipe leaves open: by the weights that it starts from, the number of samples, and the device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlesam_ros.errors import CheckpointError, ConfigError
from mlesam_ros.model.backbones import BACKBONES
from mlesam_ros.model.checkpoint import backbone_of, describe_checkpoint, read_tensors, to_sam2_keys
from mlesam_ros.model.weights import SHIPPED, names_of
from mlesam_ros.pipeline import pick_precision
from mlesam_ros.strict_yaml import check_choice
from mlesam_training.recipe import BagData, Recipe, StreetData

_ARCHITECTURE = (
    "backbone", "rank", "gate", "router_width", "top_k", "renormalize", "features", "combine", "auxiliary", "fuse",
)  # fmt: skip
_FIXED = ("backbone", "rank")
"""Model keys in which a recipe must not differ from its checkpoint."""
_IMAGES = ("preprocessors", "settings")
"""Model keys of the images that are made of streets and bags; data sets in files decide them by themselves."""
_PAPER = {"rank": 32, "image_size": 1024}
"""Model keys for SAM's weights."""
_NANO = "hiera_nano"
_COLD_LR, _WARM_LR, _SAM_LR = 1.5e-3, 1.0e-3, 6.0e-4
_PASSES = 40
"""Times that each sample is seen, within the limits of the device."""
_SEEN = {"cpu": (1_200, 8_000), "cuda": (16_000, 320_000)}
"""Device → smallest and largest number of samples of a run."""

CHOSEN = (
    "steps", "warmup", "batch", "accumulate", "lr", "ema", "balance", "full_share", "precision", "threads", "workers",
    "validate_every", "log_every",
)  # fmt: skip
"""Keys that `choose` sets if a recipe does not have them."""


def fill_recipe(content: Any, weights: str | None, backbone: str | None = None, leave_open: bool = False) -> Any:
    """Fill the content of a recipe file with what follows from the weights that the run starts from.

    Args:
        content: parsed YAML; with `leave_open` a recipe that needs no key but `data`.
        weights: file or name of a checkpoint, or of a backbone's weights such as SAM's; None for the recipe's own.
        backbone: file or name of the frozen weights, instead of the recipe's.
        leave_open: whether `choose` sets what is missing.

    Raises:
        CheckpointError: there are no such weights, or the file cannot be read.
        ConfigError: the recipe has something else than the weights.
    """
    if not isinstance(content, dict):
        return content
    if backbone is not None:
        content = {**content, "backbone": backbone}
    if weights is not None or leave_open:
        content = _started(content, weights or content.get("start") or _own_backbone(content))
    if leave_open:
        given = {*content} | ({"steps", "warmup"} if "epochs" in content else set())
        content = {**content, "chosen": [key for key in CHOSEN if key not in given]}
    return content


def _own_backbone(content: Mapping[str, Any]) -> str:
    """Backbone weights of a recipe; those of the shipped backbone if it names none.

    Raises:
        ConfigError: it has another backbone, but no weights of it.
    """
    name = (content.get("model") or {}).get("backbone", _NANO)
    if "backbone" not in content and name != _NANO:
        check_choice("model.backbone", name, BACKBONES)
        raise ConfigError(
            f"model.backbone is {name}, but backbone, its weights, is missing.",
            f"Set backbone, or give --from: {' or '.join(names_of(name)) or 'a file'}.",
        )
    return str(content.get("backbone", _NANO))


def _started(content: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Content of a recipe of stage `experts` that starts from weights."""
    if content.get("stage", "experts") != "experts":
        raise ConfigError(
            f"stage is {content['stage']}, but --from and --data FILE are for stage experts.", "Take stage out."
        )
    model, data = dict(content.get("model") or {}), content.get("data")
    state = to_sam2_keys(read_tensors(Path(weights)))
    kind = data.get("kind", "street") if isinstance(data, dict) else ""
    makes_images = kind in (*StreetData.kinds, *BagData.kinds)
    if (backbone := backbone_of(state)) is not None:
        _refuse_other("backbone", content.get("backbone"), weights, weights)
        _refuse_other("model.backbone", model.get("backbone"), backbone, weights)
        paper = {key: _PAPER[key] for key in _PAPER if backbone != _NANO and not (makes_images and key == "image_size")}
        return {**content, "stage": "experts", "backbone": weights, "model": {"backbone": backbone, **paper, **model}}
    config = describe_checkpoint(weights)["config"]
    _refuse_other("start", content.get("start"), weights, weights)
    for key in _FIXED:
        _refuse_other(f"model.{key}", model.get(key), config[key], weights)
    if "backbone" not in content and config["backbone"] not in SHIPPED:
        raise CheckpointError(
            f"{weights} was trained on {config['backbone']}, whose weights do not come with this package.",
            f"Name the ones that it was trained on: --backbone {' or '.join(names_of(config['backbone']))}.",
        )
    own: dict[str, Any] = {key: config[key] for key in _ARCHITECTURE}
    if makes_images:
        own["modalities"] = model.get("modalities", config["modalities"])
        own |= {key: {m: v for m, v in config[key].items() if m in own["modalities"]} for key in _IMAGES}
    else:
        own["image_size"] = config["image_size"]
    filled = {"backbone": config["backbone"], **content, "stage": "experts", "start": weights}
    return {**filled, "model": {**own, **model}}


def _refuse_other(key: str, given: Any, needed: Any, weights: str) -> None:
    if given is not None and given != needed:
        raise ConfigError(
            f"the recipe has {key} {given}, but {weights} needs {needed}.", f"Take {key} out of the recipe."
        )


def choose(recipe: Recipe, samples: int, device: torch.device) -> Recipe:
    """Set the keys in `recipe.chosen`.

    Args:
        recipe: a recipe.
        samples: number of training samples.
        device: of the run.
    """
    gpu, cores = device.type == "cuda", len(os.sched_getaffinity(0))
    batch = recipe.batch if "batch" not in recipe.chosen else max(1, min(8 if gpu else 4, samples))
    least, most = _SEEN["cuda" if gpu else "cpu"]
    steps = recipe.steps or recipe.epochs * (samples // batch) or -(-min(max(_PASSES * samples, least), most) // batch)
    cold = _SAM_LR if recipe.model.get("backbone", _NANO) != _NANO else _COLD_LR
    values: dict[str, Any] = {
        "steps": steps, "warmup": max(1, steps // 20), "batch": batch, "accumulate": 1,
        "lr": min(_WARM_LR, cold) if recipe.start else cold, "ema": 0.99, "balance": 0.4,
        "full_share": 0.35, "precision": pick_precision("auto", str(device)), "threads": cores,
        "workers": min(8, cores) if gpu else 0, "validate_every": max(1, steps // 10),
        "log_every": max(1, steps // 50),
    }  # fmt: skip
    epochs = {"steps", "warmup"} if recipe.epochs else set()
    found = {key: values[key] for key in recipe.chosen if key not in epochs}
    return replace(recipe, chosen=(), **found)
