# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation from any available subset of sensors. Start reading at `types.py`, then `pipeline.py`."""

from pkgutil import extend_path

# In a source checkout the generated `mlesam_ros.msg` lies in the installed copy of this package.
__path__ = extend_path(__path__, __name__)
