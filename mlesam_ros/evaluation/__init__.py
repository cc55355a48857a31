"""Evaluation of a bag: quality of the masks, contribution of each sensor, robustness to failed sensors."""
