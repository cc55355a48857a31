"""Camera models, distortion, rigid transforms, the rig, and projection into the image plane."""
