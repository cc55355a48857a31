"""Benchmarks that time this package and an alternative in turn within the same run.

A benchmark is a module with `run(repeats) -> list[BenchmarkResult]`, listed in `BENCHES`. Those of the network also
take `Options`.
"""

BENCHES: dict[str, str] = {
    "sensors": "mlesam_ros.bench.sensors",
    "sync": "mlesam_ros.bench.sync",
    "model": "mlesam_ros.bench.model",
    "paths": "mlesam_ros.bench.paths",
    "node": "mlesam_ros.bench.node",
    "training": "mlesam_ros.bench.training",
}
"""Name in `mlesam bench NAME` → module, imported only when the benchmark runs."""
