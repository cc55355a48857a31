# SPDX-License-Identifier: Apache-2.0
"""Run a command in this network namespace with a network card whose packets are counted.

    unshare --net --map-root-user python network_card.py COMMAND…

Exit code 77: this machine does not let us make a card.
"""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
IPV4 = b"\x08\x00"
SECONDS = 4.0


def make_card() -> int:
    """A tap device that is up, has an address and the default route; its file descriptor."""
    card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(card, TUNSETIFF, struct.pack("16sH", b"card0", IFF_TAP | IFF_NO_PI))
    for words in (
        "link set lo up",
        "addr add 10.9.9.9/24 dev card0",
        "link set card0 up",
        "route add default via 10.9.9.1",
    ):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)
    return card


def count(card: int, seconds: float) -> int:
    """IPv4 packets (ARP for them included) that leave by the card meanwhile."""
    packets, end = 0, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([card], [], [], left)[0]:
            packets += os.read(card, 65536)[12:14] in (IPV4, b"\x08\x06")
    return packets


def main() -> int:
    try:
        card = make_card()
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 77
    process = subprocess.Popen(sys.argv[1:])
    packets = count(card, SECONDS)
    process.send_signal(signal.SIGINT)
    code = process.wait(20)
    print(f"IPv4 packets sent: {packets}")
    return code


if __name__ == "__main__":
    sys.exit(main())
