"""Diagnosis of a recording or of a robot's topics: findings and their remedies."""
