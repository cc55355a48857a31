# SPDX-License-Identifier: Apache-2.0
"""Diagnosis of a recording or of a robot's topics: findings and their remedies."""
