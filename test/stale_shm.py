# SPDX-License-Identifier: Apache-2.0
"""What a killed process leaves in shared memory: with our profile a segment of 67 MB, until somebody takes it away.

Beside each segment of Fast DDS lies a file that its owner has locked (flock(2)) for as long as it lives; so does
`fastdds shm clean` tell the dead from the living.
"""

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
_LOCK = re.compile(r"(fastdds|fastrtps)_[0-9a-f]{16}_el")


def sweep() -> int:
    """Remove the segments of processes that are gone; how many there were."""
    return sum(_removed(path) for path in MEMORY.glob("fast*_el") if _LOCK.fullmatch(path.name))


def _removed(lock: Path) -> bool:
    with suppress(OSError):  # taken away in between, or another user's
        descriptor = os.open(lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)
    return False
