"""The offline trainer, imported as `mlesam_ros.training`. Start reading at train.py, then loop.py."""
