# SPDX-License-Identifier: Apache-2.0
"""Writes `requirements/locked/`: version and hashes of everything that `make setup` installs. `make lock` runs it.

What is locked already keeps its version as long as the files beside this one allow it; `make lock UPGRADE=1` takes the
newest that they allow. Each file is complete, so that pip need not resolve anything: `--no-deps --require-hashes`.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LOCKED = HERE / "locked"
RELEASES = ("kilted", "jazzy")
CUDA = re.compile(r"nvidia-|cuda-|triton$")
"""What PyTorch of the public index wants for GPUs; its build for CPUs wants none of it."""
RESOLVE = ["-m", "uv", "pip", "compile", "-", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
UNIVERSAL = ["--no-config", "--universal", "--python-version", "3.11", "--fork-strategy", "fewest"]

Entries = dict[str, str]
"""Name → pin, marker and hashes, as they stand in a file."""


def entries(text: str) -> Entries:
    """Those for Linux of a file that uv wrote."""
    found = re.findall(r"^(?=\w)(?:.*\\\n)*.*$", text, re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in found if "sys_platform == 'win32'" not in entry}


def resolve(lines: str, *options: str, agreed: Entries | None = None) -> Entries:
    """What `lines` lead to on every Python that `make setup` accepts, in the versions agreed on."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "locked.txt"  # uv prefers the versions that it finds here
        output.write_text("".join(file.read_text() for file in sorted(LOCKED.glob("*.txt"))))
        constraints = Path(folder) / "agreed.txt"
        constraints.write_text("".join(re.match(r"[^\s;]+", entry)[0] + "\n" for entry in (agreed or {}).values()))
        command = [sys.executable, *RESOLVE, *UNIVERSAL, *options, "-c", str(constraints), "-o", str(output)]
        subprocess.run(command, input=lines, text=True, check=True, stdout=subprocess.DEVNULL)
        return entries(output.read_text())


def wanted(*names: str) -> str:
    return "\n".join((HERE / f"{name}.txt").read_text() for name in names)


def other_hashes(torch: str) -> str:
    """PyTorch's entry with the file that pip takes here, often a build for CPUs from another index, and those known."""
    pin = torch.split(maxsplit=1)[0]
    file = LOCKED / "torch.txt"
    known = entries(file.read_text()).get("torch", "") if file.exists() else ""
    hashes = set(re.findall(r"sha256:\w+", f"{torch}\n{known}" if known.startswith(f"{pin} ") else torch))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "-qq", "download", "--no-deps", "--dest", folder, pin], check=True)
        for file in Path(folder).iterdir():
            hashes.add("sha256:" + hashlib.sha256(file.read_bytes()).hexdigest())
    return " \\\n".join([pin, *(f"    --hash={value}" for value in sorted(hashes))])


def write(name: str, chosen: Entries) -> None:
    LOCKED.mkdir(exist_ok=True)
    text = "# Written by `make lock`.\n" + "".join(chosen[key] + "\n" for key in sorted(chosen))
    (LOCKED / f"{name}.txt").write_text(text)


def main() -> None:
    options = ["--upgrade"] if os.environ.get("UPGRADE") else []
    common: Entries = {}
    for release in RELEASES:
        found = resolve(wanted("torch", f"ros-{release}", "core", "dev"), *options, agreed=common)
        write(f"ros-{release}", {name: found.pop(name) for name in list(found) if name.startswith("ros-")})
        common |= found
    torch = resolve(wanted("torch"), agreed=common)
    common |= resolve(wanted("bare"), "--no-deps", *options)
    common["torch"] = other_hashes(common["torch"])
    write("cuda", {name: common.pop(name) for name in list(common) if CUDA.match(name)})
    write("torch", {name: common.pop(name) for name in torch if name in common})
    write("core", common)
    write("uv", resolve(wanted("lock"), *options))


if __name__ == "__main__":
    main()
