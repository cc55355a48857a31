"""A ROS domain for this process and its children alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from mlesam_ros.errors import ConfigError

DOMAINS = range(100, 0, -1)
"""0 is everybody's; above 101 the ports of Linux' own outgoing connections begin."""

_CLAIM = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
"""A file of our own: others may write to the machine's temporary folder, too, and a link of theirs leads elsewhere."""


def allocate_domain(folder: Path | None = None) -> int:
    """A domain that nobody else who asked this function has.

    The claim is a lock on a file in the machine's temporary folder. The system drops it when this process ends, however
    that comes about.

    Args:
        folder: where the locks lie; one per user by default.

    Raises:
        ConfigError: all domains are claimed.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"mlesam_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for domain in DOMAINS:
        claim = os.open(folder / str(domain), _CLAIM, 0o600)  # open until the process ends
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
        else:
            return domain
    raise ConfigError(f"all {len(DOMAINS)} ROS domains are claimed in {folder}.", "End a demo, or set ROS_DOMAIN_ID.")
