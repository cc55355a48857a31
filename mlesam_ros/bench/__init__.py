# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of `mlesam bench`; benchmarks/compare.py of a checkout runs them beside alternatives."""
