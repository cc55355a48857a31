"""Stand-ins for the ROS packages that have no wheel: only the calls that this package makes, nothing more.

Where the real package is installed, which is every robot, it is the one in use.
"""
