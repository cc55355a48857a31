"""`mlesam demo`: segment a simulated street with four sensors and drop some of them on the way."""

from mlesam_ros.cli.demo.command import register

__all__ = ["register"]
