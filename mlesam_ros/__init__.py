"""mlesam_ros: one semantic mask from whatever sensors are alive. Start reading at frame.py."""

from pathlib import Path
from pkgutil import extend_path

# Two places may hold parts of this package. The installed copy carries the generated `mlesam_ros.msg`; in a source
# checkout `training/` lies beside this folder and is imported as `mlesam_ros.training`. Nothing else belongs here.
__path__ = extend_path(__path__, __name__)
_checkout = Path(__file__).resolve().parents[1]
if (_checkout / "package.xml").exists() and (_checkout / "training").is_dir():
    __path__.insert(1, str(_checkout))
