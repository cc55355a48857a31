# SPDX-License-Identifier: Apache-2.0
"""What every test relies on: ROS traffic that stays on this machine, and the real recordings where they lie."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir

import pytest
from stale_shm import sweep

from mlesam_ros.cli.common import allocate_domain
from mlesam_ros.ros.middleware import localhost_environment, transport_environment

# Before anything imports rclpy: the default discovery range multicasts on the network. Each xdist worker is a process
# of its own and so gets a domain of its own.
os.environ.update(localhost_environment())
os.environ["ROS_DOMAIN_ID"] = str(allocate_domain())
os.environ["MLESAM_EXPORTS"] = str(Path(gettempdir(), "no_exports"))  # none of the user's files


# A run started in the background of a script ignores SIGINT, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def transport() -> None:
    """The profile that carries images and listens on the loopback alone: the first context of a process decides."""
    if find_spec("rclpy") is not None:
        os.environ.update(transport_environment())


def pytest_unconfigure() -> None:
    """Give back what the processes held that tests have killed; else some runs fill the memory."""
    sweep()


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real recordings; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real recordings are not at {SHARED_DATA}")
    return SHARED_DATA
