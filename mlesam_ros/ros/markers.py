"""How the sensors are doing, where they sit: markers for RViz."""

from __future__ import annotations

from collections.abc import Iterable

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from mlesam_ros.ros.conversions import header
from mlesam_ros.ros.diagnostics import message_of

_COLORS = {
    DiagnosticStatus.OK: (0.2, 0.8, 0.3),
    DiagnosticStatus.WARN: (1.0, 0.8, 0.1),
    DiagnosticStatus.ERROR: (0.95, 0.2, 0.2),
}
_BALL, _TEXT = 0.12, 0.1  # m
_LIFE = 3  # s without a report until a marker goes


def health_markers(reports: Iterable[tuple[DiagnosticStatus, str]]) -> MarkerArray:
    """A ball and a text for every sensor whose place is known.

    Args:
        reports: status and TF frame of each sensor; an empty frame for one that was never heard.
    """
    markers = []
    for number, (status, frame) in enumerate(reports):
        if frame:
            ball, text = _marker(status, frame, Marker.SPHERE), _marker(status, frame, Marker.TEXT_VIEW_FACING)
            ball.id, text.id = 2 * number, 2 * number + 1
            ball.scale.x = ball.scale.y = ball.scale.z = _BALL
            text.scale.z, text.text = _TEXT, f"{status.name.rpartition(': ')[2]}: {_short(message_of(status).message)}"
            # Two sensors in one place, such as depth registered to the camera, stand above each other.
            text.pose.position.z = _BALL + 1.5 * _TEXT * number
            markers += [ball, text]
    return MarkerArray(markers=markers)


def _marker(status: DiagnosticStatus, frame: str, kind: int) -> Marker:
    red, green, blue = _COLORS[status.level]
    # Stamp zero is wherever the frame is by now.
    marker = Marker(header=header(0, frame), ns="sensor_health", type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.pose.orientation.w = 1.0
    marker.lifetime.sec = _LIFE
    marker.frame_locked = True
    return marker


def _short(message: str, most: int = 60) -> str:
    return message if len(message) <= most else message[: most - 1] + "…"
