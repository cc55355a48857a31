# SPDX-License-Identifier: Apache-2.0
"""Read and write weights: SAM backbones, and trained checkpoints with the metadata that identifies them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError
from mlesam_ros.files import atomic_write, detect_file_type, write_error
from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.backbones import BACKBONES, Backbone, build_backbone
from mlesam_ros.model.decoder import MaskDecoder
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import SUBSET_SEPARATOR, MLESAMConfig
from mlesam_ros.model.weights import names_of, resolve_base_weights, resolve_weights
from mlesam_ros.types import Modality

ENCODER, DECODER, PROMPTS = "image_encoder.", "sam_mask_decoder.", "sam_prompt_encoder."
"""Prefixes of the backbone's, mask decoder's and prompt encoder's tensors in SAM 2's checkpoints."""

_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_HEAD_BYTES = 512  # bytes that hold the name of an archive's first entry
_SAM1_NAMES = {"mask_decoder.": DECODER, "prompt_encoder.": PROMPTS}
_SAM1_LAYERS = {".mlp.lin1.": ".mlp.layers.0.", ".mlp.lin2.": ".mlp.layers.1."}
_HYPERNETWORK = "output_hypernetworks_mlps.{}.layers.{}.{}"


def load_base(model: MLESAM, path: str | Path) -> None:
    """Load a model's backbone weights; Meta's files also initialize the tensors that the decoder shares with SAM's.

    Raises:
        CheckpointError: see `load_backbone`.
    """
    state = load_backbone(model.backbone, path)
    model.base_weights = resolve_weights(path)
    if any(name.startswith(DECODER) for name in state):
        init_decoder_from_sam(model.decoder, state, path)


def load_backbone(backbone: Backbone, path: str | Path) -> dict[str, Tensor]:
    """Load backbone weights, strictly.

    Args:
        backbone: its weights are overwritten.
        path: path or name of weights: `.pt` or `.pth` as Meta publishes it, or this package's `.safetensors`.

    Returns:
        every tensor of the file, under SAM 2's names.

    Raises:
        CheckpointError: the file is unreadable or of another architecture; the message names the backbone that the file
            belongs to, or lists the differing tensors.
    """
    state = to_sam2_keys(read_tensors(Path(path)))
    theirs = _encoder(state)
    if differing := describe_key_mismatch(theirs, backbone.state_dict()):
        owner = backbone_of(state)
        reason = f"but {owner}" if owner else f"of its {len(theirs)} tensors of base weights {differing}"
        raise CheckpointError(
            f"{path} is not {backbone.name}{' ' if owner else ': '}{reason}.",
            f"Give {' or '.join(names_of(backbone.name))}.",
        )
    backbone.load_state_dict(theirs)
    return state


def backbone_of(state: Mapping[str, Tensor]) -> str | None:
    """Name of the backbone that tensors under SAM 2's names belong to; None for no known one."""
    theirs = _encoder(state)
    return next((name for name in BACKBONES if not describe_key_mismatch(theirs, _shapes(name))), None)


def _encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(ENCODER): t for name, t in state.items() if name.startswith(ENCODER)}


@torch.no_grad()
def init_decoder_from_sam(decoder: MaskDecoder, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Initialize from SAM's decoder: copy tensors of equal shape, assign its three mask tokens to the classes in turn.

    Args:
        decoder: its weights are overwritten, except `conv_s0` and `conv_s1` where the file is SAM 1's, which lacks
            them.
        state: tensors under SAM 2's names.
        path: file of the tensors, for the error message.

    Raises:
        CheckpointError: tensors are missing or of another shape; the message lists them.
    """
    theirs = {name.removeprefix(DECODER): t for name, t in state.items() if name.startswith(DECODER)}
    theirs |= {name: t for name, t in state.items() if name.startswith(PROMPTS)}
    ours = decoder.state_dict()
    kept = {} if "conv_s0.weight" in theirs else {n: t for n, t in ours.items() if n.startswith("conv_s")}
    needed = _sam_shapes({name: t for name, t in ours.items() if name not in kept})
    if differing := describe_key_mismatch({name: t for name, t in theirs.items() if name in needed}, needed):
        raise CheckpointError(f"{path} has a mask decoder that is not SAM's: {differing}.", "Fetch it again.")
    tokens = [1 + c % 3 for c in range(len(decoder.class_tokens))]  # token 0 is the single-mask token
    theirs["class_tokens"] = theirs["mask_tokens.weight"][tokens]
    theirs["no_mask"] = theirs[PROMPTS + "no_mask_embed.weight"][0]
    theirs["frequencies"] = theirs[PROMPTS + "pe_layer.positional_encoding_gaussian_matrix"]
    for layer in range(3):
        weights = torch.stack([theirs[_HYPERNETWORK.format(t, layer, "weight")].T for t in tokens])
        biases = torch.stack([theirs[_HYPERNETWORK.format(t, layer, "bias")] for t in tokens])
        theirs |= {f"hypernetworks.weights.{layer}": weights, f"hypernetworks.biases.{layer}": biases[:, None]}
    decoder.load_state_dict({name: kept.get(name, theirs.get(name)) for name in ours})


def save_backbone(path: str | Path, backbone: Backbone) -> None:
    """Write a backbone's weights as safetensors.

    Raises:
        FileError: the file cannot be written.
    """
    tensors = {ENCODER + name: t.detach().cpu().contiguous() for name, t in backbone.state_dict().items()}
    write_tensors(Path(path), tensors, {"backbone": backbone.name})


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of the weights: over the sorted names and the float32 bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `.pt` or `.pth` (Meta's two layouts) or `.safetensors` file: tensors on the CPU, under the file's names.

    Args:
        path: path or name of weights, see `resolve_weights`.

    Raises:
        CheckpointError: the file is missing, truncated or of another format.
    """
    path = resolve_weights(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no weights file {path}.") from error
    except Exception as error:  # torch and safetensors raise many types
        raise unreadable(path, error) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} has no tensors, by name or under the key 'model', as Meta's files do.")
    return dict(state)


def unreadable(path: str | Path, error: Exception) -> CheckpointError:
    """Build the error for a weights file that a library could not read, with the file's actual format where recognized.

    Args:
        path: the file.
        error: the library's; its advice to load unsafely is not passed on.
    """
    path = Path(path)
    if path.is_dir():
        return CheckpointError(f"{path} is a folder, not a weights file.", "Give the file in it.")
    try:
        foreign = detect_file_type(path)
    except OSError as failure:
        return CheckpointError(
            f"{path} cannot be read: {failure.strerror}.", "Give another file, or grant read permission."
        )
    if found := re.search(r"(?:GLOBAL|global) ([\w.]+\.\w+)", str(error)):
        return CheckpointError(
            f"{path} has Python objects besides tensors ({found[1]}), and loading them can run arbitrary code.",
            "Save the tensors alone where it was made: torch.save({'model': model.state_dict()}, FILE).",
        )
    if foreign is not None and not is_torch_archive(path):
        return CheckpointError(f"{path} is {foreign[0]}.", foreign[1])
    reason = (_ANSI_ESCAPE.sub("", str(error)).splitlines() or ["it is empty"])[0].split(". ")[0].rstrip(".")
    reason = reason if "weights_only" not in reason else "its pickle cannot be read"
    return CheckpointError(f"{path} is truncated or not a weights file: {reason}.", "Fetch it again.")


def is_torch_archive(path: Path) -> bool:
    """Whether `torch.save` wrote a ZIP archive: its first entry is <name>/data.pkl."""
    with path.open("rb") as file:
        return b"/data.pkl" in file.read(_HEAD_BYTES)


def to_sam2_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the parts that SAM 1 and SAM 2 share from SAM 1's to SAM 2's names; keep all others."""
    return {_to_sam2_key(name): tensor for name, tensor in state.items()}


def _to_sam2_key(name: str) -> str:
    prefix = next((p for p in _SAM1_NAMES if name.startswith(p)), None)
    if prefix is None:
        return name
    for theirs, ours in _SAM1_LAYERS.items():
        name = name.replace(theirs, ours)
    return _SAM1_NAMES[prefix] + name.removeprefix(prefix)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically.

    Args:
        path: the file; its folder is created.
        tensors: name → tensor.
        metadata: at most one entry. safetensors writes several in varying order; equal weights must give equal bytes.

    Raises:
        FileError: the folder or file cannot be written.
    """
    assert len(metadata) <= 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, 0) from error
    atomic_write(path, save(dict(tensors), dict(metadata)))


def describe_key_mismatch(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    """Differences that prevent loading `theirs` as `ours`: counts and the first few tensors; empty for none."""
    shapes = sorted(n for n in theirs.keys() & ours.keys() if theirs[n].shape != ours[n].shape)
    parts = [
        _summarize_keys("missing", ours.keys() - theirs.keys()),
        _summarize_keys("unexpected", theirs.keys() - ours.keys()),
        _summarize_keys("of another shape", [f"{n} {list(theirs[n].shape)} for {list(ours[n].shape)}" for n in shapes]),
    ]
    return "; ".join(part for part in parts if part)


def _summarize_keys(kind: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
    return f"{len(listed)} are {kind} ({shown})" if listed else ""


def _shapes(backbone: str) -> dict[str, Tensor]:
    """State dict of a backbone on the meta device."""
    with torch.device("meta"):
        return build_backbone(backbone).state_dict()


def _sam_shapes(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the meta device that SAM's checkpoint must have to initialize the decoder."""
    classes = ("class_tokens", "no_mask", "frequencies", "hypernetworks.")
    needed = {name: t for name, t in ours.items() if not name.startswith(classes)}
    width = ours["class_tokens"].shape[1]
    needed["mask_tokens.weight"] = torch.empty(4, width, device="meta")
    needed[PROMPTS + "no_mask_embed.weight"] = torch.empty(1, width, device="meta")
    needed[PROMPTS + "pe_layer.positional_encoding_gaussian_matrix"] = ours["frequencies"]
    for layer in range(3):
        weight, bias = ours[f"hypernetworks.weights.{layer}"][0].T, ours[f"hypernetworks.biases.{layer}"][0, 0]
        for token in (1, 2, 3):
            needed[_HYPERNETWORK.format(token, layer, "weight")] = weight
            needed[_HYPERNETWORK.format(token, layer, "bias")] = bias
    return needed


FORMAT = 2
"""Version of the metadata; see `mlesam_ros.model.convert_checkpoint`."""
METADATA_KEY = "mlesam"
_REMEDY = "Give a checkpoint with the same value, or start again with this one."
_EXPERT_FIELDS = ("preprocessors", "normalization", "settings")
"""Configuration fields that map modalities; each entry belongs to one expert."""
_SHARED_FIELDS = tuple(
    f.name for f in fields(MLESAMConfig) if f.name not in ("modalities", "label_space", "temperatures", *_EXPERT_FIELDS)
)
"""Configuration fields on which experts of different files must agree: they share router, heads, image size."""


def save_checkpoint(path: str | Path, model: MLESAM, metrics: Mapping[str, Any] | None = None) -> None:
    """Write the trained weights plus the metadata that identifies their backbone and label space.

    Args:
        path: ending in `.safetensors`; its folder is created.
        model: in float32.
        metrics: JSON values to store, such as `{"miou": 0.61}`.

    Raises:
        FileError: the file cannot be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in trainable_state(model).items()}
    metadata = {
        "format": FORMAT,
        "config": _current_config(model).to_dict(),
        "base_sha256": weights_sha256(model.backbone),
        "parameters": {
            "trainable": sum(p.numel() for n, p in model.named_parameters() if not n.startswith("backbone.")),
            "total": sum(p.numel() for p in model.parameters()),
        },
        "metrics": dict(metrics or {}),
    }
    write_tensors(Path(path), tensors, {METADATA_KEY: json.dumps(metadata)})


def load_checkpoint(
    path: str | Path,
    base_weights: str | Path | None = None,
    label_space: LabelSpace | None = None,
) -> MLESAM:
    """Build the model that a checkpoint describes, on the same base weights that it was trained on.

    Args:
        path: path or name of a file written by `save_checkpoint`.
        base_weights: path or name of its backbone's weights, see `resolve_weights`; None for those that ship with this
            package.
        label_space: label space that the caller requires; None to accept the checkpoint's.

    Returns:
        the model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, truncated, made for other base weights or another label space, or its
            tensors contradict its own configuration. The message names both values.
    """
    metadata = _read_metadata(Path(path))
    config = _parse_config(path, metadata)
    check_labels(path, config.label_space, label_space or config.label_space)
    _check_shapes(path, config)
    model = MLESAM(config)
    load_base(model, resolve_base_weights(config.backbone, base_weights))
    load_trained(path, model)
    return model.eval()


def load_trained(path: str | Path, model: MLESAM) -> None:
    """Load a checkpoint's tensors into an existing float32 model.

    Args:
        path: a file written by `save_checkpoint`.
        model: model of the same backbone, rank, modalities and classes, on the same base weights.

    Raises:
        CheckpointError: the file is unreadable, or of another backbone, rank, label space, set of modalities or other
            base weights; the message names both values.
    """
    _, base = check_compatible(path, model, ("backbone", "rank", "modalities"))
    model.load_state_dict(_read_matching_state(path, model), strict=False)
    model.experts.unmerge()
    model.base_sha256 = base


def load_experts(path: str | Path, model: MLESAM, modalities: Sequence[Modality] | None = None) -> None:
    """Load experts of a checkpoint into a model in use; existing ones are replaced, new ones are added.

    Router and heads stay, so the file's configuration must equal the model's except for the experts' own fields. The
    model may be merged, on any device and in any precision, and stays so.

    Args:
        path: a file written by `save_checkpoint`.
        model: loaded by `load_checkpoint`.
        modalities: experts to load; None for all in the file.

    Raises:
        CheckpointError: the file is unreadable, or of another configuration, label space or other base weights; the
            message names both values.
        ConfigError: the file has no such expert.
    """
    config, _ = check_compatible(path, model, _SHARED_FIELDS)
    wanted = config.modalities if modalities is None else tuple(modalities)
    if foreign := [m for m in wanted if m not in config.modalities]:
        raise ConfigError(f"{path} has no expert for {', '.join(foreign)}; it has {', '.join(config.modalities)}.")
    state, read = read_trained(path), {}
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
    """Read a checkpoint's metadata, without building a model.

    Returns:
        backbone, modalities, rank, label_space {name, classes}, parameters {trainable, total}, base_sha256, metrics,
        config.

    Raises:
        CheckpointError: the file is missing, truncated, or not a checkpoint.
    """
    metadata = _read_metadata(Path(path))
    config = _parse_config(path, metadata)
    return {
        "backbone": config.backbone,
        "modalities": list(config.modalities),
        "rank": config.rank,
        "label_space": {"name": config.label_space.name, "classes": list(config.label_space.names)},
        "parameters": metadata["parameters"],
        "base_sha256": metadata["base_sha256"],
        "metrics": metadata["metrics"],
        "config": config.to_dict(),
    }


def _check_shapes(path: str | Path, config: MLESAMConfig) -> None:
    """Refuse a configuration that contradicts the tensors, before memory is allocated for it."""
    with torch.device("meta"):
        _read_matching_state(path, MLESAM(config))


def _read_matching_state(path: str | Path, model: MLESAM) -> dict[str, Tensor]:
    """Read a checkpoint's tensors; require exactly those of the model, which has the file's configuration."""
    state = read_trained(path)
    if differing := describe_key_mismatch(state, trainable_state(model)):
        raise CheckpointError(f"{path} contradicts its own configuration: of its {len(state)} tensors {differing}.")
    return state


def read_trained(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors; require finite float32: other values make wrong masks without an error."""
    state = read_tensors(Path(path))
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{path} has {name} in {tensor.dtype}; a checkpoint's tensors are float32.")
        if not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise CheckpointError(f"{path} has {count} values in {name} that are not finite.", "Fetch it again.")
    return state


def trainable_state(model: MLESAM) -> dict[str, Tensor]:
    """State dict entries that a checkpoint stores: all except the backbone's."""
    return {name: t for name, t in model.state_dict().items() if not name.startswith("backbone.")}


def _current_config(model: MLESAM) -> MLESAMConfig:
    """Configuration with the model's current experts."""
    names, config = model.experts.modalities, model.config
    own: dict[str, Any] = {key: _only(getattr(config, key), names) for key in _EXPERT_FIELDS}
    own["temperatures"] = _of_subsets(config.temperatures, names)
    return replace(config, modalities=names, rank=model.experts.rank, **own)


def _with_experts(current: MLESAMConfig, source: MLESAMConfig, taken: Sequence[Modality]) -> MLESAMConfig:
    """Configuration after some experts are taken from another one; entries of replaced experts are dropped."""
    kept = [m for m in current.modalities if m not in taken]
    own: dict[str, Any] = {
        key: {**_only(getattr(current, key), kept), **_only(getattr(source, key), taken)} for key in _EXPERT_FIELDS
    }
    own["temperatures"] = _of_subsets(current.temperatures, kept)
    return replace(current, **own)


def _of_subsets(temperatures: Mapping[str, float], names: Sequence[Modality]) -> dict[str, float]:
    """Temperatures of the subsets of some modalities; those of other subsets were fitted to other experts."""
    return {key: value for key, value in temperatures.items() if {*key.split(SUBSET_SEPARATOR)} <= {*names}}


def _only(mapping: Mapping[Modality, Any], names: Sequence[Modality]) -> dict[Modality, Any]:
    return {m: value for m, value in mapping.items() if m in names}


def check_compatible(
    path: str | Path, model: MLESAM, names: Sequence[str], same_labels: bool = True
) -> tuple[MLESAMConfig, str]:
    """Configuration and base weights' SHA-256 of a checkpoint that is compatible with a model.

    Args:
        path: the checkpoint.
        model: the model to load into.
        names: configuration fields on which they must agree.
        same_labels: whether their label spaces must agree.

    Raises:
        CheckpointError: one of these fields, the label space or the base weights differ; the message names both values.
    """
    metadata = _read_metadata(Path(path))
    config, current = _parse_config(path, metadata), _current_config(model)
    check_fields(path, config, current, names)
    check_labels(path, config.label_space, current.label_space if same_labels else config.label_space)
    exact = all(p.dtype == torch.float32 for p in model.backbone.parameters())
    found = model.base_sha256 if model.base_sha256 and not exact else weights_sha256(model.backbone)
    if found != metadata["base_sha256"]:
        others = names_of(config.backbone, without=model.base_weights)
        raise CheckpointError(
            f"{path} was trained on {config.backbone} weights with SHA-256 {metadata['base_sha256']}, but the ones "
            f"loaded have {found}.",
            f"Give the base weights it was trained on{', such as ' + others[0] if others else ''}.",
        )
    return config, found


def check_replacement(path: str | Path, current: MLESAMConfig) -> None:
    """Refuse a checkpoint with other inputs or outputs than the model in use.

    Raises:
        CheckpointError: the file is unreadable, or of another backbone, label space or set of modalities; the message
            names both values.
    """
    config = _parse_config(path, _read_metadata(Path(path)))
    check_fields(path, config, current, ("backbone", "modalities"))
    theirs, ours = config.label_space, current.label_space
    check_labels(path, theirs, ours)
    pairs = [(f"{theirs.name} with {n} as {tuple(a)}", f"{ours.name} with {n} as {tuple(b)}") for n, a, b in zip(
        theirs.names, theirs.colors, ours.colors, strict=True) if a != b or theirs.name != ours.name]  # fmt: skip
    if pairs:  # name and colors are published only once
        raise CheckpointError(f"{path} has label space {pairs[0][0]}, but the model has {pairs[0][1]}.", _REMEDY)


def check_fields(path: str | Path, theirs: MLESAMConfig, ours: MLESAMConfig, names: Sequence[str]) -> None:
    """Refuse a checkpoint whose configuration differs in one of some fields.

    Raises:
        CheckpointError: names the field and both values.
    """
    for name in names:
        if getattr(theirs, name) != getattr(ours, name):
            raise CheckpointError(
                f"{path} has {name} {getattr(theirs, name)}, but the model has {getattr(ours, name)}.",
                _REMEDY,
            )


def check_labels(path: str | Path, theirs: LabelSpace, ours: LabelSpace, remedy: str = "") -> None:
    """Refuse a file whose classes differ.

    Raises:
        CheckpointError: names the first class that differs.
    """
    for index, (name, other) in enumerate(zip_longest(theirs.names, ours.names)):
        if name != other:
            raise CheckpointError(
                f"{path} was trained on label space {theirs.name} ({len(theirs)} classes), not on {ours.name} "
                f"({len(ours)} classes): class {index} is {name} there and {other} here.",
                remedy,
            )


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint of any format.

    Args:
        path: path or name of a checkpoint, see `resolve_weights`.

    Raises:
        CheckpointError: the file is missing, truncated, or has no metadata.
    """
    path = resolve_weights(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}.")
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        if is_torch_archive(path):
            raise CheckpointError(
                f"{path} was written by torch.save; a checkpoint of experts is a .safetensors file.",
                "Give it as base weights, if it is a backbone's.",
            ) from error
        raise unreadable(path, error) from error
    if text is None:
        raise CheckpointError(f"{path} has tensors but no checkpoint metadata.", "Give a checkpoint made by training.")
    try:
        metadata = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the metadata of {path} is not a JSON object: {error}.") from error
    return metadata


def _read_metadata(path: Path) -> dict[str, Any]:
    """Metadata of a checkpoint of this version's format, with all its keys."""
    metadata = read_metadata(path)
    if metadata.get("format") == 1:
        raise CheckpointError(
            f"{path} is of checkpoint format 1; this version reads format {FORMAT}.",
            f"Convert it: python3 -m mlesam_ros.model.convert_checkpoint {shlex.quote(str(path))} NEW.safetensors",
        )
    missing = {"format", "config", "base_sha256", "parameters", "metrics"} - set(metadata)
    if missing or metadata["format"] != FORMAT:
        raise CheckpointError(
            f"{path} is of checkpoint format {metadata.get('format')} and lacks "
            f"{', '.join(sorted(missing)) or 'nothing'}; this version reads format {FORMAT}."
        )
    return metadata


def _parse_config(path: str | Path, metadata: Mapping[str, Any]) -> MLESAMConfig:
    try:
        config = dict(metadata["config"])
        if not isinstance(config.get("label_space"), dict):
            raise ConfigError("its label_space is not a mapping of name and classes.")  # a string would name a file
        return MLESAMConfig.from_dict(config)
    except MlesamError as error:
        raise CheckpointError(
            f"{path} describes a model that cannot be built: {error.message}", error.remedy
        ) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}.") from error
