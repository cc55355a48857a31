"""The offline trainer, imported as `mlesam_training`. Start reading at train.py, then loop.py."""
