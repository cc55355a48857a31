"""A simulated street: four sensors and their labels, with no ROS, no download and no randomness beyond the seed."""
