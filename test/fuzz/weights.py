# SPDX-License-Identifier: Apache-2.0
"""Damaged files of weights, and what reads them."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from damage import damaged_bytes, damaged_tree
from files import CONFIG, File, is_refused
from tiny_model import write_tiny_model
from torch import nn

from mlesam_ros.errors import MlesamError
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint, read_tensors
from mlesam_ros.pipeline import Pipeline
from mlesam_training.recipe import load_recipe
from mlesam_training.state import TrainState

LENGTH = struct.Struct("<Q")
DESCRIPTION = "mlesam"
SELDOM = 20


class CheckpointFile:
    """Experts as a file beside the node would have them exchanged, and now and then loaded from the beginning."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.parameters = write_tiny_model(folder)
        self.good = Path(str(self.parameters["checkpoint"])).read_bytes()
        self.path = folder / "damaged.safetensors"
        self.pipeline = Pipeline.from_checkpoint(
            self.parameters["checkpoint"], self.parameters["base_weights"], "cpu", "fp32", 1
        )
        self.asked = 0

    def case(self, rng: random.Random) -> bytes:
        """A file with damage to its header, to the description in it, or anywhere."""
        return damaged_safetensors(rng, self.good)

    def run(self, case: bytes) -> bool:
        """See `attack.Target`; what is refused leaves the model as it was."""
        self.path.write_bytes(case)
        self.asked += 1
        refused = is_refused(lambda: describe_checkpoint(self.path) is None)
        for exchange in (self.pipeline.swap_checkpoint, self.pipeline.swap_experts):
            before = {name: t.clone() for name, t in self._state()}
            try:
                exchange(self.path)
            except MlesamError:
                refused = is_refused(exchange, self.path)
                assert all(torch.equal(t, before[name]) for name, t in self._state()), "refused, yet changed"
            assert all(t.isfinite().all() for _, t in self._state()), "weights that make masks of nothing"
        if self.asked % SELDOM == 1:
            base = self.parameters["base_weights"]
            refused |= is_refused(lambda: load_checkpoint(self.path, base) is None)
        return refused

    def _state(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, t) for name, t in self.pipeline.network.state_dict().items() if not name.startswith("backbone."))


def damaged_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Damage where it does most: the header's values, the description in it, bytes of the header, bytes anywhere."""
    (length,) = LENGTH.unpack_from(data)
    head, body, way = data[8 : 8 + length], data[8 + length :], rng.random()
    if way < 0.2:
        return damaged_bytes(rng, data[: 8 + length]) + body
    if way < 0.3:
        return damaged_bytes(rng, data)
    if way < 0.4:
        word = rng.choice([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f"])
        at = rng.randrange(len(body) // 4) * 4
        return data[: 8 + length] + body[:at] + word + body[at + 4 :]
    tree = json.loads(head)
    if way < 0.7:
        about = damaged_tree(rng, json.loads(tree["__metadata__"][DESCRIPTION]))
        if rng.random() < 0.3 and isinstance(about, dict) and isinstance(about.get("config"), dict):
            about["config"] = damaged_tree(rng, about["config"])
        tree["__metadata__"][DESCRIPTION] = json.dumps(about, default=str)
    else:
        tree = damaged_tree(rng, tree)
    made = json.dumps(tree, default=str).encode()
    return LENGTH.pack(len(made)) + made + body


def damaged_pt(rng: random.Random, data: bytes) -> bytes:
    """Bytes anywhere, or those of one member of the archive, mostly of the pickle, in an archive that is whole."""
    if rng.random() < 0.4 or not zipfile.is_zipfile(io.BytesIO(data)):
        return damaged_bytes(rng, data)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        pickle = next(name for name in names if name.endswith("data.pkl"))
        chosen = pickle if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            new.writestr(name, damaged_bytes(rng, old.read(name)) if name == chosen else old.read(name))
    return made.getvalue()


def in_bytes(content: Any, archive: bool = True) -> bytes:
    made = io.BytesIO()
    torch.save(content, made, _use_new_zipfile_serialization=archive)
    data = made.getvalue()
    for number, tensor in enumerate(content.get("model", content).values()):  # the old form names them by address
        key = str(tensor.untyped_storage()._cdata).encode()
        data = data.replace(key, str(number).encode().zfill(len(key)))
    return data


def read_base(path: Path) -> None:
    state = read_tensors(path)
    assert state and all(isinstance(t, torch.Tensor) for t in state.values())


class StateFile:
    """The state of a training run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.recipe = load_recipe(CONFIG / "training" / "street.yaml")
        self.path = folder / "state.pt"
        learner = self._learner()
        learner.save(self.path, 7, {"data set": "x"})
        self.good = self.path.read_bytes()

    def _learner(self) -> TrainState:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        learner = TrainState(self.recipe, model)
        model(torch.ones(2, 3)).sum().backward()
        learner.step(1, 0.1)
        return learner

    def case(self, rng: random.Random) -> bytes:
        """See `damaged_pt`."""
        return damaged_pt(rng, self.good)

    def run(self, case: bytes) -> bool:
        """See `attack.Target`."""
        self.path.write_bytes(case)
        return is_refused(lambda: self._learner().restore(self.path, {"data set": "x"}) < 0)


def weights_targets(folder: Path) -> dict[str, Any]:
    """Name → target."""
    tensors: Mapping[str, Any] = {f"image_encoder.{n}": torch.randn(3, 4) for n in range(5)}
    forms = [in_bytes({"model": tensors}), in_bytes(dict(tensors)), in_bytes({"model": tensors}, archive=False)]
    return {
        "checkpoint": CheckpointFile(folder / "model"),
        "base weights": File(folder / "base.pt", forms, damaged_pt, read_base),
        "training state": StateFile(folder / "run"),
    }
