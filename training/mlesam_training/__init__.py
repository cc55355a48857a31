"""Offline trainer. Entry points: `train_run.train` and `trainer.run`."""
