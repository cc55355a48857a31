"""The frozen weights: Meta's original checkpoints and our own backbone file, and a fingerprint to tell them apart.

Meta publishes two layouts. SAM 2 and 2.1: `{"model": {name: tensor}}`. SAM 1: `{name: tensor}`. The names differ
little: see `_SAM1_NAMES`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mlesam_ros.errors import CheckpointError, ConfigError
from mlesam_ros.files import atomic_write, foreign_file, write_error
from mlesam_ros.model.backbones import BACKBONES, Backbone, backbone_size, build_backbone, on_meta_device
from mlesam_ros.model.decoder import MaskDecoder
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.share import resource_path

ENCODER, DECODER, PROMPTS = "image_encoder.", "sam_mask_decoder.", "sam_prompt_encoder."
"""What the tensors of the backbone, of SAM's decoder and of its prompt encoder begin with in SAM 2's checkpoints."""

_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")
_FIRST_ENTRY = 512  # bytes that hold the name of an archive's first entry
_SAM1_NAMES = {"mask_decoder.": DECODER, "prompt_encoder.": PROMPTS}
_SAM1_LAYERS = {".mlp.lin1.": ".mlp.layers.0.", ".mlp.lin2.": ".mlp.layers.1."}
_HYPERNETWORK = "output_hypernetworks_mlps.{}.layers.{}.{}"


def resolve_base_weights(backbone: str, path: str | Path | None) -> Path:
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
        return resource_path(f"weights/{backbone}.safetensors")
    except ConfigError as error:
        if not backbone_size(backbone).files:
            raise CheckpointError(f"weights/{backbone}.safetensors is missing.", "Install again.") from error
        raise CheckpointError(
            f"the weights of {backbone} do not come with this package.",
            f"Give the path of {_files(backbone)}, the one that the experts were trained on.",
        ) from error


def load_base(model: MLESAM, path: str | Path) -> None:
    """Fill a model's backbone; from one of Meta's files also what its decoder shares with SAM's.

    Raises:
        CheckpointError: see `load_backbone`.
    """
    state = load_backbone(model.backbone, path)
    model.base_weights = Path(path)
    if any(name.startswith(DECODER) for name in state):
        init_decoder_from_sam(model.decoder, state, path)


def load_backbone(backbone: Backbone, path: str | Path) -> dict[str, Tensor]:
    """Fill a backbone, strictly.

    Args:
        backbone: its weights are overwritten.
        path: `.pt` or `.pth` as Meta publishes it, or our `.safetensors`.

    Returns:
        every tensor of the file, in SAM 2's names.

    Raises:
        CheckpointError: unreadable, or of another architecture; says which tensors differ, what file was expected and,
            if it is another backbone's, whose it is.
    """
    state = to_sam2_keys(read_tensors(Path(path)))
    theirs = {name.removeprefix(ENCODER): t for name, t in state.items() if name.startswith(ENCODER)}
    if differing := describe_key_mismatch(theirs, backbone.state_dict()):
        owner = next((name for name in BACKBONES if not describe_key_mismatch(theirs, _shapes(name))), None)
        raise CheckpointError(
            f"{path} is not {backbone.name}{f' but {owner}' if owner else ''}: of its {len(theirs)} tensors of base "
            f"weights {differing}; expected is {_files(backbone.name)}."
        )
    backbone.load_state_dict(theirs)
    return state


@torch.no_grad()
def init_decoder_from_sam(decoder: MaskDecoder, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Start from SAM's decoder: copy what has the same shape, deal SAM's three mask tokens out to the classes.

    Args:
        decoder: its weights are overwritten. `conv_s0` and `conv_s1`, which SAM 1 lacks, stay as they are then.
        state: tensors in SAM 2's names.
        path: where they come from, for the message.

    Raises:
        CheckpointError: tensors are missing or of another shape; says which.
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
    """The tensors of a `.pt` or `.pth` (Meta's two layouts) or a `.safetensors` file, on the CPU, in the file's names.

    Raises:
        CheckpointError: it is not there, truncated, or something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no weights file {path}.") from error
    except Exception as error:  # either library raises whatever it trips over
        raise unreadable(path, error) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} holds no tensors, by name or under the key 'model', as Meta's files do.")
    return dict(state)


def unreadable(path: str | Path, error: Exception) -> CheckpointError:
    """Describe a weights file that a library could not read: what it is instead, where that can be recognized.

    Args:
        path: of the file.
        error: of the library; its advice to load unsafely is not passed on.
    """
    path = Path(path)
    if path.is_dir():
        return CheckpointError(f"{path} is a folder, not a weights file.", "Give the file in it.")
    try:
        foreign = foreign_file(path)
    except OSError as failure:
        return CheckpointError(f"{path} cannot be read: {failure.strerror}.", "Give another file, or rights to it.")
    if found := re.search(r"(?:GLOBAL|global) ([\w.]+\.\w+)", str(error)):
        return CheckpointError(
            f"{path} holds Python objects besides tensors ({found[1]}), and loading those can run foreign code.",
            "Save the tensors alone where it was made: torch.save({'model': model.state_dict()}, FILE).",
        )
    if foreign is not None and not is_torch_archive(path):
        return CheckpointError(f"{path} is {foreign[0]}.", foreign[1])
    reason = (_TERMINAL.sub("", str(error)).splitlines() or ["it is empty"])[0].split(". ")[0].rstrip(".")
    reason = reason if "weights_only" not in reason else "its pickle cannot be read"
    return CheckpointError(f"{path} is truncated or not a weights file: {reason}.", "Fetch it again.")


def is_torch_archive(path: Path) -> bool:
    """Whether a ZIP archive was begun by `torch.save`: its first entry is <name>/data.pkl."""
    with path.open("rb") as file:
        return b"/data.pkl" in file.read(_FIRST_ENTRY)


def to_sam2_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM 1's names of the parts that SAM 2 has too, as SAM 2's; other names stay."""
    return {_in_sam2_names(name): tensor for name, tensor in state.items()}


def _in_sam2_names(name: str) -> str:
    prefix = next((p for p in _SAM1_NAMES if name.startswith(p)), None)
    if prefix is None:
        return name
    for theirs, ours in _SAM1_LAYERS.items():
        name = name.replace(theirs, ours)
    return _SAM1_NAMES[prefix] + name.removeprefix(prefix)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors, whole or not at all.

    Args:
        path: of the file; its folder is made.
        tensors: name → tensor.
        metadata: at most one entry: safetensors writes several in an order that changes from call to call, and the same
            weights shall be the same bytes.

    Raises:
        FileError: the folder or the disk does not take it.
    """
    assert len(metadata) <= 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, 0) from error
    atomic_write(path, save(dict(tensors), dict(metadata)))


def describe_key_mismatch(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    """What keeps `theirs` from being loaded as `ours`: counts, and the first few tensors that differ; or nothing."""
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
    """The state of a backbone, without numbers."""
    with on_meta_device():
        return build_backbone(backbone).state_dict()


def _sam_shapes(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What SAM's checkpoint must have so that our decoder can be filled from it, without numbers."""
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


def _files(backbone: str) -> str:
    files = backbone_size(backbone).files
    return "Meta's " + " or ".join(files) if files else f"weights/{backbone}.safetensors of this package"
