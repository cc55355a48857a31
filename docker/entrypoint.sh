#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command with ROS, the package and the Python environment of the image.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/mlesam/local_setup.bash
if [ -d /opt/venv ]; then
  export PATH="/opt/venv/bin:$PATH"
fi
exec "$@"
