"""Sensor health as markers."""

import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from visualization_msgs.msg import Marker

from mlesam_ros.ros.publishers import health_markers


def test_a_ball_and_words_where_each_sensor_sits():
    ill = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="mlesam: lidar", message="no message for 3 s. Set this.")
    ill.values = [KeyValue(key="remedy", value="Set this.")]
    well = DiagnosticStatus(level=DiagnosticStatus.OK, name="mlesam: camera", message="10.0 Hz on /image")
    unheard = DiagnosticStatus(level=DiagnosticStatus.WARN, name="mlesam: event", message="no publisher")
    markers = health_markers([(well, "optical"), (unheard, ""), (ill, "roof")]).markers
    assert [(m.header.frame_id, m.type) for m in markers] == [
        ("optical", Marker.SPHERE),
        ("optical", Marker.TEXT_VIEW_FACING),
        ("roof", Marker.SPHERE),
        ("roof", Marker.TEXT_VIEW_FACING),
    ]
    assert len({m.id for m in markers}) == 4
    assert [m.text for m in markers[1::2]] == ["camera: 10.0 Hz on /image", "lidar: no message for 3 s."]
    assert markers[0].color.g > markers[0].color.r and markers[2].color.r > markers[2].color.g
    assert all(m.lifetime.sec and m.color.a == 1.0 and m.pose.orientation.w == 1.0 for m in markers)
