"""What is wrong with a recording or a robot's topics, and what to do about it."""
