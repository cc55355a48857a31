# SPDX-License-Identifier: Apache-2.0
"""Paths of installed files (configuration, label spaces, rigs, weights) and of the cache; number of BLAS threads."""

from __future__ import annotations

import os
from pathlib import Path

from mlesam_ros.errors import ConfigError
from mlesam_ros.files import expand_path

# A source checkout has config/ beside the package; pip and colcon install it to <prefix>/share/mlesam_ros, and the
# package below the same <prefix>. Walking up the parents finds either, without ament or environment variables.
_CANDIDATES = (".", "share/mlesam_ros")


def resource_path(relative: str) -> Path:
    """Path of a file that ships with the package.

    Args:
        relative: such as `config/labels/deliver.yaml`.

    Raises:
        ConfigError: the file is in neither the source checkout nor the installation.
    """
    for folder in Path(__file__).resolve().parents[1:]:
        for candidate in _CANDIDATES:
            path = folder / candidate / relative
            if path.exists():
                return path.resolve()
    raise ConfigError(
        f"{relative} is neither in a source checkout nor under share/mlesam_ros of this installation.", "Install again."
    )


def cache_folder() -> Path:
    """Cache folder of the user, according to the XDG Base Directory Specification, which ignores relative paths."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return expand_path(given if os.path.isabs(given) else "~/.cache") / "mlesam_ros"


def limit_blas_threads() -> None:
    """Set OpenBLAS to one thread, unless the user set another number. Call before NumPy is imported.

    OpenBLAS splits a product between all cores, and each of its threads then busy-waits for 2^26 cycles for the next
    one (`THREAD_TIMEOUT` in https://github.com/OpenMathLib/OpenBLAS, Makefile.rule). The products of a frame, points
    times a pose, are too small to gain from that: they take as long on one core, and half of the processor time.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
