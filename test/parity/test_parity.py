# SPDX-License-Identifier: Apache-2.0
"""Live node = `evaluate` = training from bags, for every parameter of a sensor.

The same recording is played to one node over DDS, evaluated, and encoded for training. Both outcomes must be what
geometry or arithmetic says, equal to the last bit, and what the network makes of training's arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy")
from parity_live import LiveNode
from parity_offline import encoded, evaluated, training_options
from parity_outcome import Mask, Outcome, compare
from parity_scene import FOCAL, HEIGHT, PERIOD, WIDTH, Scene
from parity_table import ALL, ELSEWHERE, ENTRIES, Entry
from rosbags.rosbag2 import storage_mcap
from tiny_model import write_tiny_model

from mlesam_ros.config import iter_parameters, load_parameters, preprocessing
from mlesam_ros.pipeline import Pipeline, load_pipeline
from mlesam_ros.types import CAMERA


@pytest.fixture(scope="module", autouse=True)
def _quick_bags() -> Iterator[None]:
    """rosbags parses the same lines of YAML for every topic of every bag, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_mcap, "parse_qos", cache(storage_mcap.parse_qos))
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Parameters that name a tiny model with some preprocessors that are not the default ones.

    It reads images of the scene's own size, so that no resampling blurs what is compared.
    """

    @cache
    def write(*preprocessors: tuple[str, str]) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("weights")
        return write_tiny_model(folder, image_size=WIDTH, sharpness=4.0, preprocessors=dict(preprocessors))

    return write


@pytest.fixture(scope="module")
def load(weights: Callable[..., dict[str, Any]]) -> Iterator[Callable[[Path], Pipeline]]:
    """The network that a parameter file describes, as `mlesam evaluate` loads it; each once."""
    before, known = torch.get_num_threads(), {}

    def pipeline(described: Path) -> Pipeline:
        parameters = load_parameters(described)
        key = parameters.checkpoint, preprocessing(parameters)
        if key not in known:
            known[key] = load_pipeline(parameters)
        return known[key]

    yield pipeline
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def live(weights: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNode]:
    node = LiveNode(tmp_path_factory.mktemp("live") / "log", weights())
    yield node
    node.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration file: the frame `loose` is a meter to the left of the LiDAR's."""
    path = tmp_path_factory.mktemp("files") / "rig.yaml"
    camera = {"width": WIDTH, "height": HEIGHT, "K": [FOCAL, FOCAL, 48.0, 32.0]}
    loose = {"parent": "lidar", "child": "loose", "translation": [0.0, 1.0, 0.0], "quaternion": [0.0, 0.0, 0.0, 1.0]}
    path.write_text(str({"camera": "camera_optical", "cameras": {"camera_optical": camera}, "transforms": [loose]}))
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scene], Path]:
    """The bag of a scene; each once."""
    folder, known = tmp_path_factory.mktemp("bags"), dict[str, Path]()

    def bag(scene: Scene) -> Path:
        key = repr(scene)
        if key not in known:
            known[key] = scene.write(folder / str(len(known)))
        return known[key]

    return bag


@pytest.fixture(scope="module")
def evaluate_plain(
    load: Callable[[Path], Pipeline], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, Path], Outcome]:
    """What `evaluate` makes of a bag with a parameter file of some content; each once."""
    known: dict[tuple[Path, str], Outcome] = {}

    def outcome(bag: Path, described: Path) -> Outcome:
        key = bag, described.read_text()
        if key not in known:
            known[key] = evaluated(bag, load(described), described, tmp_path_factory.mktemp("plain") / "evaluated")
        return known[key]

    return outcome


def parameter_file(path: Path, values: dict[str, Any]) -> Path:
    """A parameter file as `ros2 launch` takes it."""
    lines = [f"    {name}: {_yaml(value)}\n" for name, value in values.items()]
    path.write_text("mlesam:\n  ros__parameters:\n" + "".join(lines))
    return path


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


def test_every_parameter_is_in_the_table_or_tested_elsewhere():
    names = {name for name, _, _ in iter_parameters()}
    listed = {name for entry in ENTRIES for name in entry.set}
    assert names - listed - set(ELSEWHERE) == set(), "add an entry to parity_table.py for each of these"
    assert (listed | set(ELSEWHERE)) - names == set()
    assert not listed & set(ELSEWHERE)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: "+".join(entry.set))
def test_parity(
    entry: Entry,
    live: LiveNode,
    load: Callable[[Path], Pipeline],
    weights: Callable[..., dict[str, Any]],
    rig: Path,
    record: Callable[[Scene], Path],
    evaluate_plain: Callable[[Path, Path], Outcome],
    tmp_path: Path,
):
    beside = weights(*entry.preprocessors.items()) | entry.beside
    values = beside | {name: str(rig) if value == "{rig}" else value for name, value in entry.set.items()}
    bag, described = record(entry.scene), parameter_file(tmp_path / "rig.params.yaml", values)
    plain = parameter_file(tmp_path / "plain.params.yaml", beside)
    offline = evaluated(bag, load(described), described, tmp_path / "evaluated")
    entry.check(offline)
    heard = live.segment(bag, values, entry.unheard, entry.due(offline))
    entry.check(heard)
    compare(heard, offline, entry.since)
    options, others = (training_options(bag, p, entry.preprocessors, tmp_path / "encoded") for p in (described, plain))
    assert (options.manifest() != others.manifest()) == entry.changes_arrays
    if entry.changes_arrays:
        rows = encoded(options)
        entry.arrays(rows)
        assert set(rows) == {stamp for stamp, mask in offline.items() if mask.used == ALL and _labeled(stamp, entry)}
        for stamp, images in rows.items():
            _network_agrees(load(described), images, offline[stamp])
    if entry.judged:
        with pytest.raises(AssertionError):
            compare(evaluate_plain(bag, plain), offline)


def _labeled(stamp: int, entry: Entry) -> bool:
    """Whether the recording has true labels within 10 ms."""
    late = round(entry.scene.lag.get(CAMERA, 0.0) * 1e3)
    return any(abs(stamp - index * PERIOD // 10**6 - late) <= 10 for index in range(entry.scene.steps))


def _network_agrees(pipeline: Pipeline, images: dict[str, np.ndarray], mask: Mask) -> None:
    """Check that the network makes this mask from training's arrays, within their 16 bits."""
    answer = pipeline.infer(images)
    off = np.abs(answer.confidence.astype(int) - mask.images["confidence"])
    assert off.mean() < 0.5, off.mean()
    labels = mask.images["labels"]
    assert (answer.labels == labels)[labels != 255].mean() > 0.99
