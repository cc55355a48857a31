# SPDX-License-Identifier: Apache-2.0
"""Camera models, distortion, rigid transforms, the rig, and projection into the image plane."""
