# SPDX-License-Identifier: Apache-2.0
"""Run `mlesam` as `python -m mlesam_ros.cli`."""

from mlesam_ros.cli import main

if __name__ == "__main__":
    main()
