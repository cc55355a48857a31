# SPDX-License-Identifier: Apache-2.0
"""Read and write rosbag2 bags without ROS, with the real message types."""
