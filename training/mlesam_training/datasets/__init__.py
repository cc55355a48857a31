# SPDX-License-Identifier: Apache-2.0
"""Published data sets in their own layouts. Each is one module with a `FileDataset` called `DATASET`, found by name."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from mlesam_ros.errors import ConfigError
from mlesam_ros.strict_yaml import check_choice
from mlesam_training.labeled_dataset import FileDataset

DATASETS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""Names of the data sets, which are those of their modules."""


def open_dataset(name: str, split: str, options: Mapping[str, Any]) -> FileDataset:
    """Open one split of a published data set.

    Args:
        name: one of `DATASETS`.
        split: name of the split in the data set.
        options: `root`, and further arguments of the data set's class, such as modalities, weather or protocol.

    Raises:
        ConfigError: a name or option is unknown, or a value is not accepted.
        DatasetError: a file of the expected layout is missing.
    """
    check_choice("data set", name, DATASETS)
    dataset: Callable[..., FileDataset] = import_module(f"{__name__}.{name}").DATASET
    accepted = [key for key in inspect.signature(dataset).parameters if key != "split"]
    for key in options:
        check_choice(f"option of data set {name}", key, accepted)
    if "root" not in options:
        raise ConfigError(f"data set {name} lacks root, its folder.")
    return dataset(split=split, **options)
