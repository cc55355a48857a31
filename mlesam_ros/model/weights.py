"""The frozen weights: Meta's original checkpoints and our own backbone file, and a fingerprint to tell them apart."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mlesam_ros.errors import CheckpointError, ConfigError
from mlesam_ros.model.backbones import Backbone, backbone_size
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.share import share

ENCODER, DECODER = "image_encoder.", "sam_mask_decoder."
"""What the tensors of the backbone and of SAM's decoder begin with in Meta's checkpoints."""


def find_base(backbone: str, path: str | Path | None) -> Path:
    """Where the frozen weights lie.

    Args:
        backbone: a name in `BACKBONES`.
        path: where the user says they are; None for those that ship with this package.

    Raises:
        CheckpointError: none ship for that backbone; says what to fetch.
    """
    if path is not None:
        return Path(path)
    try:
        return share(f"weights/{backbone}.safetensors")
    except ConfigError as error:
        if backbone_size(backbone).shipped:
            raise CheckpointError(f"weights/{backbone}.safetensors is missing; install again.") from error
        raise CheckpointError(
            f"the weights of {backbone} do not come with this package; give the path of Meta's sam2.1_{backbone}.pt or "
            f"sam2_{backbone}.pt, whichever the experts were trained on, as facebookresearch/sam2 publishes it."
        ) from error


def load_base(model: MLESAM, path: str | Path) -> None:
    """Fill a model's backbone; from one of Meta's files also what its decoder shares with SAM's.

    Raises:
        CheckpointError: see `load_backbone`.
    """
    state = load_backbone(model.backbone, path)
    if not any(name.startswith(DECODER) for name in state):
        return
    try:
        model.decoder.load_sam(state)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} has a mask decoder that is not SAM 2's: {error}; fetch it again.") from error


def load_backbone(backbone: Backbone, path: str | Path) -> dict[str, Tensor]:
    """Fill a backbone, strictly.

    Args:
        backbone: its weights are overwritten.
        path: `.pt` as Meta publishes it, or our `.safetensors`.

    Returns:
        every tensor of the file.

    Raises:
        CheckpointError: unreadable, or of another architecture; says which tensors differ.
    """
    state = read_tensors(Path(path))
    theirs = {name.removeprefix(ENCODER): t for name, t in state.items() if name.startswith(ENCODER)}
    refuse_difference(theirs, backbone.state_dict(), f"{path} is not {backbone.name}", "base weights")
    backbone.load_state_dict(theirs)
    return state


def save_backbone(path: str | Path, backbone: Backbone) -> None:
    """Write a backbone of our own as safetensors.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {ENCODER + name: t.detach().cpu().contiguous() for name, t in backbone.state_dict().items()}
    write_tensors(Path(path), tensors, {"backbone": backbone.name})


def base_sha256(backbone: Backbone) -> str:
    """Fingerprint of the frozen weights: SHA-256 over the sorted names and the float32 bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pt` (Meta's `{"model": {...}}`) or `.safetensors` file, on the CPU.

    Raises:
        CheckpointError: it is not there, truncated, or something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no weights file {path}.") from error
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0].rstrip(".")
        raise CheckpointError(f"{path} is truncated or not a weights file: {reason}; fetch it again.") from error
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} does not hold a model's tensors under the key 'model', as Meta's files do.")
    return dict(state)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors, whole or not at all.

    Args:
        path: of the file; its folder is made.
        tensors: name → tensor.
        metadata: at most one entry: safetensors writes several in an order that changes from call to call, and the same
            weights shall be the same bytes.

    Raises:
        CheckpointError: the folder or the disk does not take it.
    """
    assert len(metadata) <= 1
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(save(dict(tensors), dict(metadata)))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}.") from error


def refuse_difference(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str, kind: str) -> None:
    """Raise unless both hold the same names and shapes.

    Raises:
        CheckpointError: counts, and names the first few tensors that differ.
    """
    shapes = sorted(n for n in theirs.keys() & ours.keys() if theirs[n].shape != ours[n].shape)
    parts = [
        _some("missing", ours.keys() - theirs.keys()),
        _some("unexpected", theirs.keys() - ours.keys()),
        _some("of another shape", [f"{n} {list(theirs[n].shape)} for {list(ours[n].shape)}" for n in shapes]),
    ]
    if any(parts):
        raise CheckpointError(f"{what}: of its {len(theirs)} tensors of {kind} {'; '.join(p for p in parts if p)}.")


def _some(kind: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
    return f"{len(listed)} are {kind} ({shown})" if listed else ""
