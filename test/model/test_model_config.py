# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.errors import ConfigError
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.model_config import CHOICES, MLESAMConfig

configs = st.builds(
    MLESAMConfig,
    modalities=st.lists(st.text("abcxyz_", min_size=1), min_size=1, max_size=5, unique=True).map(tuple),
    label_space=st.sampled_from(["deliver", "muses", "mcubes", "cityscapes"]).map(load_label_space),
    rank=st.integers(1, 64),
    image_size=st.integers(1, 40).map(lambda n: 32 * n),
    top_k=st.integers(1, 6),
    router_width=st.integers(0, 8),
    renormalize=st.booleans(),
    auxiliary=st.booleans(),
    **{name: st.sampled_from(words) for name, words in CHOICES.items()},
)


@given(configs)
def test_config_round_trip_through_json(config):
    assert MLESAMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_normalization_round_trip_through_json():
    config = MLESAMConfig(preprocessors={"camera": "rgb"}, normalization={"camera": ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))})
    assert MLESAMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_label_space_may_be_a_shipped_name():
    assert MLESAMConfig.from_dict({"label_space": "muses"}).label_space == load_label_space("muses")


def test_the_papers_configuration():
    config = MLESAMConfig.paper(label_space=load_label_space("muses"))
    assert (config.backbone, config.rank, config.image_size) == ("hiera_base_plus", 32, 1024)


def test_a_misspelt_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'topk' is unknown.*did you mean top_k\?"):
        MLESAMConfig.from_dict({"topk": 3})


@pytest.mark.parametrize(
    "values",
    [
        {"preprocessors": {"camera": ["rgb"]}},
        {"normalization": {"camera": [[0, 0, [0]], [1, 1, 1]]}},
        {"normalization": {"camera": [["a", 0, 0], [1, 1, 1]]}},
        {"normalization": {"camera": [[0, 0, 0], [1, 1, None]]}},
        {"normalization": {"camera": [[0, 0, 0], [1, 1, float("nan")]]}},
        {"normalization": {"camera": [[0, 0, 0], [1, 1, 0]]}},
        {"normalization": {"camera": [[0, 0], [1, 1]]}},
        {"temperatures": {"camera": 0.0}},
        {"temperatures": {"camera+lidar": float("nan")}},
        {"temperatures": {"camera+radar": 1.0}},
        {"temperatures": {"lidar+camera": 1.0}},
        {"temperatures": {"camera": True}},
    ],
)
def test_invalid_values_of_a_modality_are_refused(values):
    """Metadata of a damaged checkpoint. Every value is named before anything computes with it."""
    with pytest.raises(ConfigError, match="camera"):
        MLESAMConfig.from_dict(values)


@pytest.mark.parametrize(
    "values", [{"modalities": 5}, {"normalization": [1]}, {"label_space": 7}, {"preprocessors": 3}]
)
def test_values_of_the_wrong_kind_are_refused(values):
    with pytest.raises(ConfigError, match="wrong kind"):
        MLESAMConfig.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": "routd"}, r"features 'routd'.*average, routed, both; did you mean routed\?"),
        ({"backbone": "hiera_tny"}, r"did you mean hiera_tiny\?"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": True}, "rank is True"),
        ({"top_k": 1.5}, r"top_k is 1\.5"),
        ({"image_size": 100}, "image_size is 100; it must be a multiple of 32"),
        ({"modalities": ()}, r"modalities are \[\]"),
        ({"modalities": ("camera", "camera")}, "distinct"),
        ({"modalities": ("near.infrared",)}, "without a dot"),
        ({"modalities": ("keys",)}, "not a method of torch's ModuleDict"),
        ({"router_width": -1}, "router_width is -1; it must be an integer of at least 0"),
        ({"preprocessors": {"sonar": "rgb"}}, "preprocessors names sonar"),
    ],
)
def test_impossible_values_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        MLESAMConfig(**changes)
