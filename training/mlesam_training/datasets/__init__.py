"""Labeled frames from disk: published data sets in their own layouts, and bags. Start reading at frames.py."""
