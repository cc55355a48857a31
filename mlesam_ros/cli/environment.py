"""What ROS must find in the environment before a process of ours joins the graph."""

from __future__ import annotations

import os

from mlesam_ros.cli.domain import allocate_domain
from mlesam_ros.ros.middleware import check_environment, transport_environment


def configure_ros_env() -> None:
    """Keep discovery on this machine and give Fast DDS room for images, unless the user has decided otherwise.

    Raises:
        ConfigError: a variable with which no ROS process starts.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    check_environment()
    os.environ.update(transport_environment())


def prepare_own_domain() -> None:
    """Like `configure_ros_env`, in a domain apart from other robots on this machine unless one was chosen."""
    if not os.environ.get("ROS_DOMAIN_ID"):
        os.environ["ROS_DOMAIN_ID"] = str(allocate_domain())
    configure_ros_env()
