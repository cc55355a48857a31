"""Where the files that are not code lie: configuration, label spaces, rigs and the shipped weights."""

from __future__ import annotations

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
