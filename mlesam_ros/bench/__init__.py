"""How long things take, ours and the alternative in turn in the same run, on a machine that is described.

A benchmark is a module with `run(repeats) -> list[Row]`; `BENCHES` names them. The network's take `Options` as well.
"""

BENCHES: dict[str, str] = {
    "sensors": "mlesam_ros.bench.sensors",
    "sync": "mlesam_ros.bench.sync",
    "model": "mlesam_ros.bench.model",
    "paths": "mlesam_ros.bench.paths",
    "node": "mlesam_ros.bench.node",
    "training": "mlesam_ros.bench.training",
}
"""`mlesam bench NAME` → its module. None is imported before it is run."""
