"""Checkpoints: only what was trained, and everything needed to refuse the wrong company.

A checkpoint is a safetensors file. Its tensors are the experts, the router and the heads; its metadata, under the key
`mlesam`, is one JSON object: format, config, base_sha256, parameters, metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlesam_ros.errors import CheckpointError, MlesamError
from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.weights import (
    base_sha256,
    find_base,
    load_base,
    read_tensors,
    refuse_difference,
    write_tensors,
)

FORMAT = 1
_KEY = "mlesam"


def save_checkpoint(path: str | Path, model: MLESAM, metrics: Mapping[str, Any] | None = None) -> None:
    """Write what was trained.

    Args:
        path: ending in `.safetensors`; its folder is made.
        model: in float32.
        metrics: JSON values worth knowing, such as `{"miou": 0.61}`.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in trained(model).items()}
    about = {
        "format": FORMAT,
        "config": _current_config(model).to_dict(),
        "base_sha256": base_sha256(model.backbone),
        "parameters": {
            "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "total": sum(p.numel() for p in model.parameters()),
        },
        "metrics": dict(metrics or {}),
    }
    write_tensors(Path(path), tensors, {_KEY: json.dumps(about)})


def load_checkpoint(
    path: str | Path,
    base_weights: str | Path | None = None,
    device: str = "cpu",
    label_space: LabelSpace | None = None,
) -> MLESAM:
    """Build the model that a checkpoint describes, on the very base weights that it was trained on.

    Args:
        path: a file that `save_checkpoint` wrote.
        base_weights: Meta's `.pt`, or our backbone's `.safetensors`; None for those that ship with this package.
        device: where to put it.
        label_space: the label space that the caller goes by; None for whatever the checkpoint has.

    Returns:
        the model in evaluation mode.

    Raises:
        CheckpointError: missing, truncated, made for other base weights or another label space, or its tensors do not
            fit its own configuration. Says both values.
    """
    about = _read_about(Path(path))
    config = _config(path, about)
    if label_space is not None and label_space.names != config.label_space.names:
        raise CheckpointError(
            f"{path} was trained on label space {config.label_space.name} ({len(config.label_space)} classes), "
            f"not on {label_space.name} ({len(label_space)} classes)."
        )
    model = MLESAM(config)
    load_base(model, find_base(config.backbone, base_weights))
    load_trained(path, model)
    return model.to(device).eval()


def load_trained(path: str | Path, model: MLESAM) -> None:
    """Fill an existing model, in float32, with a checkpoint's tensors, for instance after another training run.

    Raises:
        CheckpointError: unreadable, or of another backbone, rank, label space, set of modalities or other base weights;
            says both values.
    """
    about = _read_about(Path(path))
    config, current = _config(path, about), _current_config(model)
    for name in ("backbone", "rank", "modalities"):
        theirs, ours = getattr(config, name), getattr(current, name)
        if theirs != ours:
            raise CheckpointError(f"{path} has {name} {theirs}, but the model has {ours}.")
    if config.label_space.names != current.label_space.names:
        raise CheckpointError(f"{path} has label space {config.label_space.name}, not {current.label_space.name}.")
    found = base_sha256(model.backbone)
    if found != about["base_sha256"]:
        raise CheckpointError(
            f"{path} was trained on {config.backbone} weights with SHA-256 {about['base_sha256']}, but the ones loaded "
            f"have {found}; give the base weights it was trained on."
        )
    state = read_tensors(Path(path))
    refuse_difference(state, trained(model), f"{path} contradicts its own configuration", "trained weights")
    model.load_state_dict(state, strict=False)
    model.experts.unmerge()


def describe_checkpoint(path: str | Path) -> dict[str, Any]:
    """What is inside, without building a model.

    Returns:
        backbone, modalities, rank, label_space {name, classes}, parameters {trainable, total}, base_sha256, metrics,
        config.

    Raises:
        CheckpointError: missing, truncated, or not a checkpoint.
    """
    about = _read_about(Path(path))
    config = _config(path, about)
    return {
        "backbone": config.backbone,
        "modalities": list(config.modalities),
        "rank": config.rank,
        "label_space": {"name": config.label_space.name, "classes": list(config.label_space.names)},
        "parameters": about["parameters"],
        "base_sha256": about["base_sha256"],
        "metrics": about["metrics"],
        "config": config.to_dict(),
    }


def trained(model: MLESAM) -> dict[str, Tensor]:
    """The part of the state that a checkpoint holds: all but the backbone."""
    return {name: t for name, t in model.state_dict().items() if not name.startswith("backbone.")}


def _current_config(model: MLESAM) -> MLESAMConfig:
    """The configuration with the experts that the model has by now."""
    names, config = model.experts.modalities, model.config
    encoders = {m: name for m, name in config.encoders.items() if m in names}
    statistics = {m: pair for m, pair in config.statistics.items() if m in names}
    return replace(config, modalities=names, encoders=encoders, statistics=statistics)


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}.")
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}; fetch it again.") from error
    if text is None:
        raise CheckpointError(f"{path} holds tensors but no experts' description; give a checkpoint made by training.")
    try:
        about = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the description in {path} is not a JSON object: {error}.") from error
    missing = {"format", "config", "base_sha256", "parameters", "metrics"} - set(about)
    if missing or about["format"] != FORMAT:
        raise CheckpointError(
            f"{path} is of checkpoint format {about.get('format')}, lacking {', '.join(sorted(missing)) or 'nothing'}; "
            f"this version reads format {FORMAT}."
        )
    return about


def _config(path: str | Path, about: Mapping[str, Any]) -> MLESAMConfig:
    try:
        return MLESAMConfig.from_dict(dict(about["config"]))
    except (MlesamError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}") from error
