# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 interface. Only this package imports rclpy and ROS message types."""
