"""`python -m mlesam_ros.cli` is `mlesam`."""

from mlesam_ros.cli import main

if __name__ == "__main__":
    main()
