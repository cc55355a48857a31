"""Prints the exact version of everything that pip installed into this environment: `make lock` after a change here."""

from importlib import metadata

for name, version in sorted(
    {(d.name.lower().replace("_", "-"), d.version.split("+")[0]) for d in metadata.distributions() if d.read_text("INSTALLER")}
):
    if name not in ("pip", "mlesam-ros"):
        print(f"{name}=={version}")
