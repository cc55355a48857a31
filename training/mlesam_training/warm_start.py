# SPDX-License-Identifier: Apache-2.0
"""Start of training from a checkpoint of other classes or sensors: what a model takes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.checkpoint import check_compatible, read_trained, trainable_state
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import Modality

_PER_CLASS = ("decoder.class_tokens", "decoder.hypernetworks.", "auxiliary.classify.")
"""Prefixes of the tensors whose first dimension is the class."""
_EXPERT = "experts.by_modality."


@dataclass(frozen=True)
class WarmStart:
    """What a model took of a checkpoint.

    Attributes:
        path: the checkpoint.
        classes: taken, by the model's names.
        new_classes: of the model, which start as in a fresh model.
        experts: taken.
        new_experts: modality → why its expert starts as in a fresh model.
        unused_experts: of the checkpoint, whose sensors the model lacks.
        parts: other parts of the model, taken whole: `decoder`, `router`, `auxiliary`.
        new_parts: those of which a tensor starts as in a fresh model.
    """

    path: str
    classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    experts: tuple[Modality, ...]
    new_experts: Mapping[Modality, str]
    unused_experts: tuple[Modality, ...]
    parts: tuple[str, ...]
    new_parts: tuple[str, ...]

    def table(self) -> Table:
        """Terminal table of what was taken, and what not."""
        table = Table(title=f"start from {self.path}", title_justify="left")
        for heading in ("", "taken", "new", "not used"):
            table.add_column(heading, overflow="fold")
        new = (f"{modality}: {reason}" if reason else modality for modality, reason in self.new_experts.items())
        table.add_row("classes", _listed(self.classes), _listed(self.new_classes), "")
        table.add_row("experts", _listed(self.experts), _listed(new), _listed(self.unused_experts))
        table.add_row("for all classes", _listed(self.parts), _listed(self.new_parts), "")
        return table

    @property
    def note(self) -> str:
        """Sentence for a checkpoint without a common class; else empty."""
        if self.classes:
            return ""
        return f"{self.path} has no class of the data; only the parts that all classes share start from it."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"


@torch.no_grad()
def start_from(path: str | Path, model: MLESAM) -> WarmStart:
    """Load what fits of a checkpoint into a model; everything else of the model stays as it is.

    Classes with the same name, apart from case and punctuation, take their tokens, hypernetworks and classifiers.
    Experts are taken for the sensors of the model if their images are made in the same way.

    Args:
        path: a checkpoint.
        model: float32 model of the same backbone and rank, on the same base weights.

    Raises:
        CheckpointError: the file is unreadable, or of another backbone, rank or other base weights.
    """
    theirs, _ = check_compatible(path, model, ("backbone", "rank"), same_labels=False)
    ours, state = model.config, read_trained(path)
    pairs = matching_classes(theirs.label_space, ours.label_space)
    mine, other = (torch.tensor([pair[i] for pair in pairs], dtype=torch.long) for i in (0, 1))
    reasons = {modality: _other_images(modality, theirs, ours) for modality in ours.modalities}
    fresh: set[str] = set()
    for name, tensor in trainable_state(model).items():
        source = state.get(name)
        if name.startswith(_EXPERT):
            if reasons[name.removeprefix(_EXPERT).split(".")[0]] is None and source is not None:
                tensor.copy_(source)
        elif source is not None and name.startswith(_PER_CLASS) and source.shape[1:] == tensor.shape[1:]:
            tensor[mine] = source[other].to(tensor)
        elif source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
        else:
            fresh.add(name.split(".")[0])
    shared = dict.fromkeys(name.split(".")[0] for name in trainable_state(model) if not name.startswith(_EXPERT))
    names, taken = ours.label_space.names, {pair[0] for pair in pairs}
    return WarmStart(
        str(path),
        tuple(names[i] for i in sorted(taken)),
        tuple(name for i, name in enumerate(names) if i not in taken),
        tuple(modality for modality, reason in reasons.items() if reason is None),
        {modality: reason for modality, reason in reasons.items() if reason is not None},
        tuple(modality for modality in theirs.modalities if modality not in ours.modalities),
        tuple(part for part in shared if part not in fresh),
        tuple(part for part in shared if part in fresh),
    )


def matching_classes(theirs: LabelSpace, ours: LabelSpace) -> list[tuple[int, int]]:
    """(our id, their id) of each class of the same name, apart from case, spaces and punctuation."""
    known = {_plain(name): index for index, name in reversed([*enumerate(theirs.names)])}
    return [(index, known[_plain(name)]) for index, name in enumerate(ours.names) if _plain(name) in known]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name


def _other_images(modality: Modality, theirs: MLESAMConfig, ours: MLESAMConfig) -> str | None:
    """Reason why the expert of a modality cannot be used; None if it can, empty if the checkpoint has none."""
    if modality not in theirs.modalities:
        return ""
    for key in ("preprocessors", "settings"):
        mine, other = (getattr(config, key).get(modality) for config in (ours, theirs))
        if mine and other and mine != other:
            return f"{key} are {mine} here and {other} there"
    mine, other = (config.normalization.get(modality) for config in (ours, theirs))
    if mine and other and not np.allclose(mine, other):
        return "images are normalized in another way"
    return None
