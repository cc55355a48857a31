"""Prints the exact version of everything that pip installed into this environment: `make lock` after a change here."""

from importlib import metadata

installed = [d for d in metadata.distributions() if d.read_text("INSTALLER")]
versions = {d.name.lower().replace("_", "-"): d.version.split("+")[0] for d in installed}
for name in sorted(versions.keys() - {"pip", "mlesam-ros"}):
    print(f"{name}=={versions[name]}")
