# SPDX-License-Identifier: Apache-2.0
"""A simulated street: four sensors and their labels, without ROS or downloads, deterministic for a given seed."""
