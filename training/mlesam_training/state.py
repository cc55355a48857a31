"""A run's state on disk: everything that the next step needs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlesam_ros.errors import CheckpointError
from mlesam_ros.files import atomic_write
from mlesam_training.recipe import Recipe, differences, recipe_dict

_SPARED = (
    "bias", "biases", "pos_embed", "pos_embed_window", "rel_pos_h", "rel_pos_w", "class_tokens", "no_mask",
)  # fmt: skip


def packed(content: dict[str, Any]) -> bytes:
    """Serialize as `torch.save` does, in memory: the size is known before the disk is asked for room."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on a parameter: on the matrices of layers and experts alone.

    timm's rule (`param_groups_weight_decay`, and the `no_weight_decay` lists of its ViT, Swin and Hiera): not on
    biases, norms and whatever else has one dimension, nor on position codes and learned tokens. Here some biases are
    stacked.
    """
    words = [word for word in name.split(".") if not word.isdigit()]
    return parameter.ndim > 1 and words[-1] not in _SPARED


class TrainState:
    """A model that learns, its optimizer, and the running average of its weights.

    Attributes:
        model: its parameters that require a gradient are changed in place.
        optimizer: AdamW with weight decay where `decays`.
        average: name → running average of a trained parameter; empty without `recipe.ema`.
    """

    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        """Set up for the first step; the model is on its device."""
        self._recipe, self.model = recipe, model
        parameters = trained(model).items()
        groups = [
            {"params": [p for name, p in parameters if decays(name, p) == wanted], "weight_decay": decay}
            for wanted, decay in ((True, recipe.weight_decay), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
        self.average: dict[str, Tensor] = {}
        if recipe.ema:
            self.average = {name: p.detach().clone() for name, p in trained(model).items()}

    @torch.no_grad()
    def step(self, number: int, rate: float) -> None:
        """Change the weights by their gradients, and the average after them."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        decay = min(self._recipe.ema, (1 + number) / (10 + number))  # the first weights are soon forgotten
        parameters = trained(self.model)
        for name, mean in self.average.items():
            mean.lerp_(parameters[name].detach(), 1 - decay)

    @torch.no_grad()
    def finish(self) -> None:
        """Give the model its average weights, where there are any."""
        for name, parameter in trained(self.model).items():
            if name in self.average:
                parameter.copy_(self.average[name])

    def save(self, path: Path, step: int, origin: Mapping[str, str]) -> None:
        """Write everything that the next step needs. The old state stays until the new one is whole on the disk.

        Args:
            path: of the state.
            step: the next one.
            origin: what the run began with besides its recipe, name → value or SHA-256; see `run_origin`.

        Raises:
            FileError: it cannot be written, see `atomic_write`.
        """
        state = {
            "recipe": recipe_dict(self._recipe), "origin": dict(origin), "step": step,
            "parameters": {name: p.detach() for name, p in trained(self.model).items()},
            "buffers": dict(self.model.named_buffers()), "optimiser": self.optimizer.state_dict(),
            "average": self.average,
        }  # fmt: skip
        atomic_write(path, packed(state))

    def restore(self, path: Path, origin: Mapping[str, str]) -> int:
        """Load a state where there is one.

        Args:
            path: of the state.
            origin: what this run begins with; see `save`.

        Returns:
            The step to go on with; 0 where there is no state.

        Raises:
            CheckpointError: it is damaged, or was made with a recipe, data or base weights that make something else;
                names both values.
        """
        if not path.exists():
            return 0
        try:
            state = dict(torch.load(path, map_location="cpu", weights_only=True))
            changed = differences(state["recipe"], recipe_dict(self._recipe))
            before: dict[str, str] = {} if changed else dict(state["origin"])
            other = [name for name in sorted({*before, *origin}) if before.get(name) != origin.get(name)]
            if not changed and not other:
                self._take(state)
                return int(state["step"])
        except Exception as error:  # torch raises whatever it trips over
            reason = (str(error) or "it is empty").splitlines()[0].split(". ")[0].rstrip(".")
            raise CheckpointError(
                f"{path} is truncated or not a training state ({reason}).", "Start afresh with --restart."
            ) from error
        if changed:
            what = f"another {' and '.join(changed)}"
        else:
            what = "; ".join(f"{name} {before.get(name)}, and this run has {origin.get(name)}" for name in other)
        raise CheckpointError(
            f"{path} was made with {what}.", "Use what it was made with, another folder, or --restart to start afresh."
        )

    @torch.no_grad()
    def _take(self, state: dict[str, Any]) -> None:
        for name, parameter in trained(self.model).items():
            parameter.copy_(state["parameters"][name])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])
        for name, mean in self.average.items():
            mean.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimiser"])
