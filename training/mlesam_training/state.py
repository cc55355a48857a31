# SPDX-License-Identifier: Apache-2.0
"""Training state: parameters, optimizer and weight average, with checkpoints on disk."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlesam_ros.errors import CheckpointError
from mlesam_ros.files import atomic_write
from mlesam_training.recipe import Recipe, differences, recipe_dict

_NO_DECAY = (
    "bias", "biases", "pos_embed", "pos_embed_window", "rel_pos_h", "rel_pos_w", "class_tokens", "no_mask",
)  # fmt: skip


def serialize(content: dict[str, Any]) -> bytes:
    """Serialize as `torch.save` does, in memory, so that the size is known before writing."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def has_weight_decay(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies to a parameter: only to the matrices of layers and experts.

    Follows timm (`param_groups_weight_decay`, and the `no_weight_decay` lists of its ViT, Swin and Hiera): no decay of
    biases, norms and other one-dimensional parameters, position embeddings and learned tokens. Some biases are stacked
    here and are therefore excluded by name.
    """
    words = [word for word in name.split(".") if not word.isdigit()]
    return parameter.ndim > 1 and words[-1] not in _NO_DECAY


class TrainState:
    """A model, its optimizer, and the exponential moving average of its weights.

    Attributes:
        model: the model; its trainable parameters are changed in place.
        optimizers: AdamW with weight decay as in `has_weight_decay`; with `recipe.muon` also Muon for the matrices of a
            trained backbone's blocks.
        average: name → moving average of a trainable parameter; empty without `recipe.ema`.
    """

    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        """Set up for the first step. The model must be on its device."""
        self._recipe, self.model = recipe, model
        parameters = trainable_parameters(model)
        matrices = {n: p for n, p in parameters.items() if recipe.muon and p.ndim == 2 and n.startswith("backbone.")}
        others = [(name, p) for name, p in parameters.items() if name not in matrices]
        groups = [
            {"params": [p for name, p in others if has_weight_decay(name, p) == wanted], "weight_decay": share}
            for wanted, share in ((True, recipe.weight_decay), (False, 0.0))
        ]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=recipe.lr, fused=True)]
        if matrices:
            decay, like_adamw = recipe.weight_decay, "match_rms_adamw"  # steps as long as those of AdamW
            muon = torch.optim.Muon(matrices.values(), recipe.lr, weight_decay=decay, adjust_lr_fn=like_adamw)
            self.optimizers.append(muon)
        self.average: dict[str, Tensor] = {}
        if recipe.ema:
            self.average = {name: p.detach().clone() for name, p in trainable_parameters(model).items()}

    @torch.no_grad()
    def step(self, number: int, rate: float) -> None:
        """Update the weights from their gradients, then the average."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        decay = min(self._recipe.ema, (1 + number) / (10 + number))  # small at first, to discard the initial weights
        parameters = trainable_parameters(self.model)
        for name, mean in self.average.items():
            mean.lerp_(parameters[name].detach(), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the model is in evaluation mode and has the average weights, if any."""
        parameters, before = trainable_parameters(self.model), {}
        if self.average:
            before = {name: p.detach().clone() for name, p in parameters.items()}
        self.finish()
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
            with torch.no_grad():
                for name, weight in before.items():
                    parameters[name].copy_(weight)

    @torch.no_grad()
    def finish(self) -> None:
        """Copy the average weights, if any, into the model."""
        for name, parameter in trainable_parameters(self.model).items():
            if name in self.average:
                parameter.copy_(self.average[name])

    def save(self, path: Path, step: int, origin: Mapping[str, str]) -> None:
        """Write the state for the next step. The old file is replaced only after the new one is complete.

        Args:
            path: file of the state.
            step: the next step.
            origin: inputs of the run besides its recipe, name → value or SHA-256; see `trainer.run_origin`.

        Raises:
            FileError: the file cannot be written, see `atomic_write`.
        """
        state = {
            "recipe": recipe_dict(self._recipe), "origin": dict(origin), "step": step,
            "parameters": {name: p.detach() for name, p in trainable_parameters(self.model).items()},
            "buffers": dict(self.model.named_buffers()), "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip
        atomic_write(path, serialize(state))

    def restore(self, path: Path, origin: Mapping[str, str]) -> int:
        """Load the state if the file exists.

        Args:
            path: file of the state.
            origin: inputs of this run; see `save`.

        Returns:
            The next step; 0 without a file.

        Raises:
            CheckpointError: the file is damaged, or belongs to another recipe, data set or base weights; names the
                difference.
        """
        if not path.exists():
            return 0
        try:
            state = dict(torch.load(path, map_location="cpu", weights_only=True))
            changed = differences(state["recipe"], recipe_dict(self._recipe))
            before: dict[str, str] = {} if changed else dict(state["origin"])
            other = [name for name in sorted({*before, *origin}) if before.get(name) != origin.get(name)]
            if not changed and not other:
                self._load(state)
                return int(state["step"])
        except Exception as error:  # torch raises errors of many types
            reason = (str(error) or "it is empty").splitlines()[0].split(". ")[0].rstrip(".")
            raise CheckpointError(
                f"{path} is truncated or not a training state ({reason}).", "Start again with --restart."
            ) from error
        if changed:
            what = f"another {' and '.join(changed)}"
        else:
            what = "; ".join(f"{name} {before.get(name)}, and this run has {origin.get(name)}" for name in other)
        raise CheckpointError(
            f"{path} was made with {what}.", "Use what it was made with, another folder, or --restart to start again."
        )

    @torch.no_grad()
    def _load(self, state: dict[str, Any]) -> None:
        for name, parameter in trainable_parameters(self.model).items():
            parameter.copy_(state["parameters"][name])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])
        for name, mean in self.average.items():
            mean.copy_(state["average"][name])
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
