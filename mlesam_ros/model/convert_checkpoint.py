# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of format 1 to format 2: `python3 -m mlesam_ros.model.convert_checkpoint OLD NEW`.

Format 2 renames keys of the configuration. Tensors and all other metadata are unchanged.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mlesam_ros.errors import CheckpointError, MlesamError, format_error
from mlesam_ros.files import expand_path
from mlesam_ros.model.checkpoint import METADATA_KEY, read_metadata, read_tensors, write_tensors
from mlesam_ros.model.model_config import MLESAMConfig

RENAMED_KEYS = {"encoders": "preprocessors", "statistics": "normalization", "renormalise": "renormalize"}
"""Keys of the configuration: format 1 → format 2."""


def convert_checkpoint(old: Path, new: Path) -> None:
    """Write a checkpoint of format 1 as format 2.

    Args:
        old: file of format 1.
        new: file to write, ending in `.safetensors`; may equal `old`.

    Raises:
        CheckpointError: `old` is unreadable, or not a complete checkpoint of format 1.
        ConfigError: the configuration of `old` is invalid.
        FileError: `new` cannot be written.
    """
    metadata, tensors = read_metadata(old), read_tensors(old)
    if metadata.get("format") != 1:
        raise CheckpointError(f"{old} is of checkpoint format {metadata.get('format')}; only format 1 is converted.")
    if not isinstance(metadata.get("config"), dict):
        raise CheckpointError(f"{old} has no configuration of a model.", "Give a checkpoint made by training.")
    metadata["format"] = 2
    metadata["config"] = {RENAMED_KEYS.get(key, key): value for key, value in metadata["config"].items()}
    MLESAMConfig.from_dict(metadata["config"])
    write_tensors(new, tensors, {METADATA_KEY: json.dumps(metadata)})


def main() -> int:
    """Command line: convert one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=expand_path, help="checkpoint of format 1")
    parser.add_argument("new", type=expand_path, help="file to write, ending in .safetensors; may be the same file")
    paths = parser.parse_args()
    try:
        convert_checkpoint(paths.old, paths.new)
    except MlesamError as error:
        print(format_error(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
