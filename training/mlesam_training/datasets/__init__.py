# SPDX-License-Identifier: Apache-2.0
"""Data sets in files, found by name. Each is one module with a subclass of `FileDataset`, registered as its `DATASET`.

The modules of this package are found by their file names, those of other packages by entry points of the group
`mlesam.datasets`:

    [project.entry-points."mlesam.datasets"]
    valley = "my_package.valley"
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mlesam_ros.errors import ConfigError, PackageError
from mlesam_ros.strict_yaml import check_choice
from mlesam_training.labeled_dataset import FileDataset

GROUP = "mlesam.datasets"
"""Group of the entry points."""


@cache
def _entry_points() -> dict[str, EntryPoint]:
    own = {module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)}
    return {
        **{point.name: point for point in entry_points(group=GROUP)},
        **{name: EntryPoint(name, module, GROUP) for name, module in own.items()},
    }


def dataset_names() -> tuple[str, ...]:
    """Names of the data sets, sorted. Imports none of them."""
    return tuple(sorted(_entry_points()))


def find_dataset(name: str) -> type[FileDataset]:
    """Import a data set by name.

    Raises:
        ConfigError: the name is unknown.
        PackageError: its module cannot be imported, or has no data set.
    """
    check_choice("data set", name, dataset_names())
    point = _entry_points()[name]
    try:
        found = import_module(point.module)
        dataset = getattr(found, point.attr or "DATASET")
    except (ImportError, AttributeError) as error:
        raise PackageError(f"data set {name} cannot be loaded from {point.value}: {error}.") from error
    if not (isinstance(dataset, type) and issubclass(dataset, FileDataset)):
        raise PackageError(f"data set {name} in {point.value} is {dataset!r}, which is no subclass of FileDataset.")
    return dataset


def dataset_options(name: str) -> tuple[str, ...]:
    """Names of the options of a data set: the arguments of its class, without root and split.

    Raises:
        ConfigError, PackageError: see `find_dataset`.
    """
    arguments = inspect.signature(find_dataset(name)).parameters
    return tuple(key for key in arguments if key not in ("root", "split"))


def open_dataset(name: str, split: str, options: Mapping[str, Any]) -> FileDataset:
    """Open one split of a data set.

    Args:
        name: one of `dataset_names`.
        split: name of the split in the data set.
        options: `root`, and further arguments of the data set's class, such as modalities, weather or protocol.

    Raises:
        ConfigError: a name or option is unknown, or a value is not accepted.
        DatasetError: a file of the expected layout is missing.
        PackageError: see `find_dataset`.
    """
    accepted = ("root", *dataset_options(name))
    for key in options:
        check_choice(f"option of data set {name}", key, accepted)
    if "root" not in options:
        raise ConfigError(f"data set {name} lacks root, its folder.")
    dataset: Any = find_dataset(name)
    opened: FileDataset = dataset(split=split, **options)
    return opened
