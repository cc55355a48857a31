"""Installed files of the package (configuration, label spaces, rigs, weights), and its BLAS threads."""

from __future__ import annotations

import os
from pathlib import Path

from mlesam_ros.errors import ConfigError

# A source checkout has config/ beside the package; pip and colcon put it under <prefix>/share/mlesam_ros, and the
# package itself somewhere below the same <prefix>. Walking up finds either, with no ament and no environment.
_CANDIDATES = (".", "share/mlesam_ros")


def resource_path(relative: str) -> Path:
    """Path of a file that ships with the package.

    Args:
        relative: such as `config/labels/deliver.yaml`.

    Raises:
        ConfigError: it is in neither the source checkout nor the installation.
    """
    for folder in Path(__file__).resolve().parents[1:]:
        for candidate in _CANDIDATES:
            path = folder / candidate / relative
            if path.exists():
                return path.resolve()
    raise ConfigError(
        f"{relative} is neither in a source checkout nor under share/mlesam_ros of this installation.", "Install again."
    )


def limit_blas_threads() -> None:
    """Have NumPy multiply in the calling thread, unless the user has decided otherwise; before NumPy is imported.

    OpenBLAS splits a product between all cores, and each of its threads then turns in a circle for 2^26 cycles, in case
    that there is another one (`THREAD_TIMEOUT` in https://github.com/OpenMathLib/OpenBLAS, Makefile.rule). The products
    of a frame, points times a pose, are too small to gain from that: they take as long on one core, and half of the
    processor time.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
