"""Labeled data sets: published ones in their own layouts, and encoded arrays of bags or simulated streets."""
