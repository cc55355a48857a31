# SPDX-License-Identifier: Apache-2.0
"""Conversion of raw sensor data to the three-channel images that the experts read."""
