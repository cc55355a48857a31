"""`mlesam demo`: four sensors, a street, and what happens when some of them fail."""

from mlesam_ros.cli.demo.command import register

__all__ = ["register"]
