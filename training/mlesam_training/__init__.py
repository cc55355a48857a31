# SPDX-License-Identifier: Apache-2.0
"""Offline trainer. Entry points: `train_run.train` and `trainer.run`."""
