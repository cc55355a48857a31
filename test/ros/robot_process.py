# SPDX-License-Identifier: Apache-2.0
"""The small robot as a process: python robot_process.py '{"qos": …}'; it drives until it is ended.

Keys, all optional: `sensors`, `frames`, `infos` as in `Robot`; `reliability` of the sensors; `static` durability of
/tf_static; `lead`: seconds by which every stamp is ahead; `silent`: sensors that have a publisher and say nothing;
`clock`: whether /clock is published.
"""

import json
import signal
import sys
import time

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robot import CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME, Robot, clock_message
from rosgraph_msgs.msg import Clock

from mlesam_ros.types import MODALITIES


def main() -> None:
    given = json.loads(sys.argv[1])
    rclpy.init()
    node = rclpy.create_node("robot")
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy[given.get("reliability", "RELIABLE")])
    static = QoSProfile(depth=1, durability=DurabilityPolicy[given.get("static", "TRANSIENT_LOCAL")])
    frames = given.get("frames", (CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME))
    robot = Robot(node, qos, frames, given.get("infos", True), static)
    clock = node.create_publisher(Clock, "/clock", 10) if given.get("clock") else None
    sensors = [m for m in given.get("sensors", MODALITIES) if m not in given.get("silent", ())]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("driving", flush=True)
    due = time.monotonic()
    while True:
        robot.sense(sensors, robot.now() + round(given.get("lead", 0) * 1e9))
        if clock is not None:
            clock.publish(clock_message(robot.now()))
        due += 0.1
        time.sleep(max(due - time.monotonic(), 0))


if __name__ == "__main__":
    main()
