"""Raw sensor data made into the three-channel pictures that the experts read."""
