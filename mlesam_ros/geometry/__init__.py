"""Camera models, transforms, and projection into the image plane. NumPy only."""
