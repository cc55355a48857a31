"""A run's state on disk: everything that the next step needs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import nn

from mlesam_ros.errors import CheckpointError
from mlesam_ros.training.recipe import Recipe, differences, recipe_dict


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_state(path: Path, recipe: Recipe, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write everything that the next step needs. The old state stays until the new one is whole on the disk."""
    parameters = {name: p.detach() for name, p in trained(model).items()}
    buffers = dict(model.named_buffers())
    state = {
        "recipe": recipe_dict(recipe), "step": step, "parameters": parameters, "buffers": buffers,
        "optimiser": optimiser.state_dict(),
    }  # fmt: skip
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def restore_state(path: Path, recipe: Recipe, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load a state where there is one.

    Returns:
        The step to go on with; 0 where there is no state.

    Raises:
        CheckpointError: it is damaged, or was made with a recipe that makes something else.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        changed = differences(state["recipe"], recipe_dict(recipe))
        if not changed:
            with torch.no_grad():
                for name, parameter in trained(model).items():
                    parameter.copy_(state["parameters"][name])
                for name, buffer in model.named_buffers():
                    buffer.copy_(state["buffers"][name])
            optimiser.load_state_dict(state["optimiser"])
            return int(state["step"])
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be resumed from ({error}); start afresh in another folder.") from error
    raise CheckpointError(
        f"{path} was made with another {' and '.join(changed)}; use that recipe, another folder, or start afresh."
    )
