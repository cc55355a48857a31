# SPDX-License-Identifier: Apache-2.0
"""Driver without the transport profile whose images exceed its segment: python oversize_publisher.py TOPIC
[NAME=VALUE].

Bursts of images of three megabytes, until it is ended; `driving` on standard output after the first.
"""

import os
import sys
import time

import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from mlesam_ros.ros.middleware import PROFILE_VARIABLES

for name in PROFILE_VARIABLES:
    os.environ.pop(name, None)
os.environ.update(pair.split("=", 1) for pair in sys.argv[2:])
rclpy.init()
node = rclpy.create_node("flood")
publisher = node.create_publisher(Image, sys.argv[1], qos_profile_sensor_data)
image = Image(height=1000, width=1000, step=3000, encoding="rgb8", data=bytes(3_000_000))
image.header.frame_id = "camera"
driving = False
while True:
    for _ in range(5):
        image.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(image)
    if not driving:
        print("driving", flush=True)
        driving = True
    time.sleep(0.2)
