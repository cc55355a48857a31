"""The ROS shell: the only room that imports rclpy or a message type."""
