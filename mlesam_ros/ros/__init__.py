"""The ROS 2 interface. Only this package imports rclpy and ROS message types."""
