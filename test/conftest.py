"""What every test relies on: ROS traffic that stays on this machine, and the real recordings where they lie."""

import fcntl
import os
import signal
import tempfile
from pathlib import Path

import pytest


def claim_domain() -> int:
    """A ROS domain that no other test process on this machine has; it is free again when this process ends."""
    folder = Path(tempfile.gettempdir()) / f"mlesam_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for domain in range(100, 0, -1):
        claim = os.open(folder / str(domain), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)  # open until the process ends
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
        else:
            return domain
    raise RuntimeError(f"all 100 ROS domains are claimed in {folder}; end some test runs.")


# Before anything imports rclpy: the default discovery range multicasts on the network. Each xdist worker is a process
# of its own and so gets a domain of its own.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(claim_domain())

# A run started in the background of a script ignores SIGINT, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real recordings; the test is skipped where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real recordings are not at {SHARED_DATA}")
    return SHARED_DATA
