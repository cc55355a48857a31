"""Bags without ROS: rosbag2 folders read and written with the real message types."""
