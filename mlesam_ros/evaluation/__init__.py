# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a bag: quality of the masks, contribution of each sensor, robustness to failed sensors."""
