"""Checkpoints: only what was trained, and everything needed to refuse the wrong company.

A checkpoint is a safetensors file. Its tensors are the experts, the router and the heads; its metadata, under the key
`mlesam`, is one JSON object: format, config, base_sha256, parameters, metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError
from mlesam_ros.frame import Modality
from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.backbones import on_meta_device
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.weights import (
    base_sha256,
    describe_key_mismatch,
    is_torch_archive,
    load_base,
    read_tensors,
    resolve_base_weights,
    unreadable,
    write_tensors,
)

FORMAT = 1
_KEY = "mlesam"
_AFRESH = "Give a checkpoint that agrees in it, or load this one afresh."
_OWN = ("encoders", "statistics", "settings")
"""Fields of the configuration that map modalities: each entry belongs to one expert."""
_SHARED = tuple(f.name for f in fields(MLESAMConfig) if f.name not in ("modalities", "label_space", *_OWN))
"""Fields that experts from different files must have in common, because router, heads and picture size are shared."""


def save_checkpoint(path: str | Path, model: MLESAM, metrics: Mapping[str, Any] | None = None) -> None:
    """Write what was trained.

    Args:
        path: ending in `.safetensors`; its folder is made.
        model: in float32.
        metrics: JSON values worth knowing, such as `{"miou": 0.61}`.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in trainable_state(model).items()}
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
    _refuse_other_labels(path, config.label_space, label_space or config.label_space)
    _refuse_other_shapes(path, config)
    model = MLESAM(config)
    load_base(model, resolve_base_weights(config.backbone, base_weights))
    load_trained(path, model)
    return model.to(device).eval()


def load_trained(path: str | Path, model: MLESAM) -> None:
    """Fill an existing model, in float32, with a checkpoint's tensors, for instance after another training run.

    Raises:
        CheckpointError: unreadable, or of another backbone, rank, label space, set of modalities or other base weights;
            says both values.
    """
    _, base = _check_compatible(path, model, ("backbone", "rank", "modalities"))
    state = _read_matching_state(path, model)
    model.load_state_dict(state, strict=False)
    model.experts.unmerge()
    model.base_sha256 = base


def load_experts(path: str | Path, model: MLESAM, modalities: Sequence[Modality] | None = None) -> None:
    """Take experts out of a checkpoint into a model that is in use: those it has are replaced, new ones are added.

    Router and heads stay, so the file's configuration must be the model's in all that is not an expert's own. The model
    may be merged, on any device and in any precision, and stays so.

    Args:
        path: a file that `save_checkpoint` wrote.
        model: filled by `load_checkpoint`.
        modalities: which experts; None for all that the file has.

    Raises:
        CheckpointError: unreadable, or of another configuration, label space or other base weights; says both values.
        ConfigError: the file has no such expert.
    """
    config, _ = _check_compatible(path, model, _SHARED)
    wanted = config.modalities if modalities is None else tuple(modalities)
    if foreign := [m for m in wanted if m not in config.modalities]:
        raise ConfigError(f"{path} has no expert for {', '.join(foreign)}; it has {', '.join(config.modalities)}.")
    state, read = _read_trained(path), {}
    for modality in wanted:
        prefix = f"experts.by_modality.{modality}."
        theirs = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        read[modality] = expert = model.experts.new_expert(config.rank)
        if differing := describe_key_mismatch(theirs, expert.state_dict()):
            raise CheckpointError(f"{path} contradicts its own configuration: its expert for {modality}: {differing}.")
        expert.load_state_dict(theirs)
    for modality, expert in read.items():
        model.experts.add(modality, expert)
    model.config = _with_experts(_current_config(model), config, wanted)


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


def _refuse_other_shapes(path: str | Path, config: MLESAMConfig) -> None:
    """Refuse a configuration that is not its tensors', before it costs the memory that it asks for."""
    with on_meta_device():
        _read_matching_state(path, MLESAM(config))


def _read_matching_state(path: str | Path, model: MLESAM) -> dict[str, Tensor]:
    """A checkpoint's tensors, which are all that a model of its configuration needs."""
    state = _read_trained(path)
    if differing := describe_key_mismatch(state, trainable_state(model)):
        raise CheckpointError(f"{path} contradicts its own configuration: of its {len(state)} tensors {differing}.")
    return state


def _read_trained(path: str | Path) -> dict[str, Tensor]:
    """A checkpoint's tensors, which are numbers all of them: others make masks of nothing, and no error."""
    state = read_tensors(Path(path))
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{path} has {name} in {tensor.dtype}; a checkpoint's tensors are float32.")
        if not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise CheckpointError(f"{path} has {count} values in {name} that are no finite numbers.", "Fetch it again.")
    return state


def trainable_state(model: MLESAM) -> dict[str, Tensor]:
    """The part of the state that a checkpoint holds: all but the backbone."""
    return {name: t for name, t in model.state_dict().items() if not name.startswith("backbone.")}


def _current_config(model: MLESAM) -> MLESAMConfig:
    """The configuration with the experts that the model has by now."""
    names, config = model.experts.modalities, model.config
    own: dict[str, Any] = {key: _only(getattr(config, key), names) for key in _OWN}
    return replace(config, modalities=names, rank=model.experts.rank, **own)


def _with_experts(current: MLESAMConfig, source: MLESAMConfig, taken: Sequence[Modality]) -> MLESAMConfig:
    """The configuration once some experts of another one are in use: nothing of those that they replace stays."""
    kept = [m for m in current.modalities if m not in taken]
    own: dict[str, Any] = {
        key: {**_only(getattr(current, key), kept), **_only(getattr(source, key), taken)} for key in _OWN
    }
    return replace(current, **own)


def _only(mapping: Mapping[Modality, Any], names: Sequence[Modality]) -> dict[Modality, Any]:
    return {m: value for m, value in mapping.items() if m in names}


def _check_compatible(path: str | Path, model: MLESAM, names: Sequence[str]) -> tuple[MLESAMConfig, str]:
    """The configuration and the base weights' SHA-256 of a checkpoint that fits a model.

    Args:
        path: of the checkpoint.
        model: that is to take some of it.
        names: fields of the configuration in which they must agree.

    Raises:
        CheckpointError: they differ in one of those, in the label space or in the base weights; says both values.
    """
    about = _read_about(Path(path))
    config, current = _config(path, about), _current_config(model)
    _refuse_other(path, config, current, names)
    _refuse_other_labels(path, config.label_space, current.label_space)
    exact = all(p.dtype == torch.float32 for p in model.backbone.parameters())
    found = model.base_sha256 if model.base_sha256 and not exact else base_sha256(model.backbone)
    if found != about["base_sha256"]:
        raise CheckpointError(
            f"{path} was trained on {config.backbone} weights with SHA-256 {about['base_sha256']}, but the ones "
            f"loaded have {found}.",
            "Give the base weights it was trained on.",
        )
    return config, found


def refuse_stranger(path: str | Path, current: MLESAMConfig) -> None:
    """Refuse a checkpoint that cannot stand in for the one in use, because outputs and inputs depend on the difference.

    Raises:
        CheckpointError: unreadable, or of another backbone, label space or other modalities; says both values.
    """
    config = _config(path, _read_about(Path(path)))
    _refuse_other(path, config, current, ("backbone", "modalities"))
    theirs, ours = config.label_space, current.label_space
    _refuse_other_labels(path, theirs, ours)
    pairs = [(f"{theirs.name} with {n} as {tuple(a)}", f"{ours.name} with {n} as {tuple(b)}") for n, a, b in zip(
        theirs.names, theirs.colors, ours.colors, strict=True) if a != b or theirs.name != ours.name]  # fmt: skip
    if pairs:  # its name and colors are announced once
        raise CheckpointError(f"{path} has label space {pairs[0][0]}, but the model has {pairs[0][1]}.", _AFRESH)


def _refuse_other(path: str | Path, theirs: MLESAMConfig, ours: MLESAMConfig, names: Sequence[str]) -> None:
    for name in names:
        if getattr(theirs, name) != getattr(ours, name):
            raise CheckpointError(
                f"{path} has {name} {getattr(theirs, name)}, but the model has {getattr(ours, name)}.",
                _AFRESH,
            )


def _refuse_other_labels(path: str | Path, theirs: LabelSpace, ours: LabelSpace) -> None:
    for index, (name, other) in enumerate(zip_longest(theirs.names, ours.names)):
        if name != other:
            raise CheckpointError(
                f"{path} was trained on label space {theirs.name} ({len(theirs)} classes), not on {ours.name} "
                f"({len(ours)} classes): class {index} is {name} there and {other} here."
            )


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}.")
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError) as error:
        if is_torch_archive(path):
            raise CheckpointError(
                f"{path} was written by torch.save; a checkpoint of experts is a .safetensors file.",
                "Give it as base weights, if it is a backbone's.",
            ) from error
        raise unreadable(path, error) from error
    if text is None:
        raise CheckpointError(
            f"{path} holds tensors but no experts' description.", "Give a checkpoint made by training."
        )
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
        config = dict(about["config"])
        if not isinstance(config.get("label_space"), dict):
            raise ConfigError("its label_space is no mapping of name and classes.")  # not the name of a file to read
        return MLESAMConfig.from_dict(config)
    except MlesamError as error:
        raise CheckpointError(
            f"{path} describes a model that cannot be built: {error.message}", error.remedy
        ) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}.") from error
