"""`mlesam evaluate`: bags in, evidence out."""

from mlesam_ros.cli.evaluate.command import register

__all__ = ["register"]
