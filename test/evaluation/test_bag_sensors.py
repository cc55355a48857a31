# SPDX-License-Identifier: Apache-2.0
"""Topics as drivers and data sets publish them, and what a bag's user would mean by them."""

import pytest

from mlesam_ros.config import load_parameters
from mlesam_ros.errors import BagError
from mlesam_ros.evaluation.bag_sensors import find_topics, with_ground_truth
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR

IMAGE, SMALL = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, CLOUD, IMU = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Imu"
PACKET, TF, ODOMETRY = "event_camera_msgs/msg/EventPacket", "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry"

OURS = {
    "/tf": TF, "/tf_static": TF, "/camera/image_raw": IMAGE, "/camera/camera_info": INFO, "/depth/image_raw": IMAGE,
    "/depth/camera_info": INFO, "/lidar/points": CLOUD, "/events": PACKET, "/events/camera_info": INFO,
    "/ground_truth/labels": IMAGE,
}  # fmt: skip
REALSENSE = {
    "/camera/camera/color/image_raw": IMAGE, "/camera/camera/color/image_raw/compressed": SMALL,
    "/camera/camera/color/camera_info": INFO, "/camera/camera/depth/image_rect_raw": IMAGE,
    "/camera/camera/depth/camera_info": INFO, "/camera/camera/aligned_depth_to_color/image_raw": IMAGE,
    "/camera/camera/aligned_depth_to_color/camera_info": INFO, "/camera/camera/infra1/image_rect_raw": IMAGE,
    "/camera/camera/infra1/camera_info": INFO, "/camera/camera/infra2/image_rect_raw": IMAGE,
    "/camera/camera/depth/color/points": CLOUD, "/camera/camera/imu": IMU,
}  # fmt: skip
ZED = {
    "/zed/zed_node/rgb/image_rect_color": IMAGE, "/zed/zed_node/rgb/camera_info": INFO,
    "/zed/zed_node/left/image_rect_color": IMAGE, "/zed/zed_node/left/camera_info": INFO,
    "/zed/zed_node/right/image_rect_color": IMAGE, "/zed/zed_node/right/camera_info": INFO,
    "/zed/zed_node/depth/depth_registered": IMAGE, "/zed/zed_node/depth/camera_info": INFO,
    "/zed/zed_node/confidence/confidence_map": IMAGE,
    "/zed/zed_node/disparity/disparity_image": "stereo_msgs/msg/DisparityImage",
    "/zed/zed_node/point_cloud/cloud_registered": CLOUD, "/zed/zed_node/odom": ODOMETRY,
}  # fmt: skip
OUSTER = {
    "/ouster/points": CLOUD, "/ouster/range_image": IMAGE, "/ouster/signal_image": IMAGE,
    "/ouster/reflec_image": IMAGE, "/ouster/nearir_image": IMAGE, "/ouster/imu": IMU,
    "/ouster/lidar_packets": "ouster_sensor_msgs/msg/PacketMsg", "/front_camera/image_raw": IMAGE,
    "/front_camera/camera_info": INFO,
}  # fmt: skip
KITTI = {
    "/kitti/camera_gray_left/image_raw": IMAGE, "/kitti/camera_gray_left/camera_info": INFO,
    "/kitti/camera_gray_right/image_raw": IMAGE, "/kitti/camera_gray_right/camera_info": INFO,
    "/kitti/camera_color_left/image_raw": IMAGE, "/kitti/camera_color_left/camera_info": INFO,
    "/kitti/camera_color_right/image_raw": IMAGE, "/kitti/camera_color_right/camera_info": INFO,
    "/kitti/velo/pointcloud": CLOUD, "/kitti/oxts/imu": IMU, "/tf": TF,
}  # fmt: skip
RING = ("BACK", "BACK_LEFT", "BACK_RIGHT", "FRONT", "FRONT_LEFT", "FRONT_RIGHT")
NUSCENES = {
    **{f"/CAM_{side}/image_rect_compressed": SMALL for side in RING},
    **{f"/CAM_{side}/camera_info": INFO for side in RING},
    "/CAM_FRONT/annotations": "foxglove_msgs/msg/ImageAnnotations", "/LIDAR_TOP": CLOUD, "/RADAR_FRONT": CLOUD,
    "/RADAR_BACK_LEFT": CLOUD, "/map": "nav_msgs/msg/OccupancyGrid", "/tf": TF, "/odom": ODOMETRY,
}  # fmt: skip
AUTOWARE = {
    "/sensing/lidar/concatenated/pointcloud": CLOUD, "/sensing/lidar/top/pointcloud_raw": CLOUD,
    "/perception/obstacle_segmentation/pointcloud": CLOUD, "/localization/util/downsample/pointcloud": CLOUD,
    "/sensing/camera/camera0/image_rect_color": IMAGE, "/sensing/camera/camera0/camera_info": INFO,
    "/sensing/camera/camera1/image_rect_color": IMAGE, "/sensing/camera/camera1/camera_info": INFO,
    "/sensing/camera/traffic_light/image_raw": IMAGE, "/map/pointcloud_map": CLOUD,
}  # fmt: skip
METAVISION = {"/event_camera/events": PACKET, "/event_camera/camera_info": INFO, "/event_camera/image_raw": IMAGE}

ROBOTS = {
    "ours": (OURS, {
        CAMERA: "/camera/image_raw", DEPTH: "/depth/image_raw", EVENT: "/events", LIDAR: "/lidar/points",
        "truth": "/ground_truth/labels",
    }),
    "realsense": (REALSENSE, {
        CAMERA: "/camera/camera/color/image_raw", DEPTH: "/camera/camera/aligned_depth_to_color/image_raw",
    }),
    "zed": (ZED, {
        CAMERA: "/zed/zed_node/rgb/image_rect_color", DEPTH: "/zed/zed_node/depth/depth_registered",
    }),
    "ouster": (OUSTER, {CAMERA: "/front_camera/image_raw", LIDAR: "/ouster/points"}),
    "kitti": (KITTI, {CAMERA: "/kitti/camera_color_left/image_raw", LIDAR: "/kitti/velo/pointcloud"}),
    "nuscenes": (NUSCENES, {CAMERA: "/CAM_FRONT/image_rect_compressed", LIDAR: "/LIDAR_TOP"}),
    "autoware": (AUTOWARE, {
        CAMERA: "/sensing/camera/camera0/image_rect_color", LIDAR: "/sensing/lidar/concatenated/pointcloud",
    }),
    "metavision": (METAVISION, {EVENT: "/event_camera/events"}),
}  # fmt: skip


def described(*rules):
    return load_parameters(overrides=rules)


@pytest.mark.parametrize("robot", ROBOTS)
def test_topics_of_known_robots_are_found(robot):
    topics, meant = ROBOTS[robot]
    found = with_ground_truth(find_topics(topics), topics, None, "--topic truth:=TOPIC")
    assert {
        **{m: s.topic for m, s in found.sensors.items()},
        **({"truth": found.ground_truth} if found.ground_truth else {}),
    } == meant


def test_parameter_overrides_the_guess():
    found = find_topics(NUSCENES, described("camera.topic:=/CAM_BACK/image_rect_compressed"))
    assert found.sensors[CAMERA].topic == "/CAM_BACK/image_rect_compressed"
    assert found.infos[CAMERA] == "/CAM_BACK/camera_info"


def test_other_candidates_are_in_a_note():
    (note,) = [note for note in find_topics(NUSCENES).notes if note.startswith("camera")]
    assert note.startswith("camera is read from /CAM_FRONT/image_rect_compressed; ")
    assert all(f"/CAM_{side}/image_rect_compressed" in note for side in ("BACK", "FRONT_LEFT", "BACK_RIGHT"))
    assert "Choose with -p camera.topic:=TOPIC." in note


def test_ground_truth_topic_is_searched_on_request_only():
    """The note names an option that the command has."""
    two = {**OURS, "/annotations/labels": IMAGE}
    assert find_topics(two).ground_truth is None and find_topics(two).notes == ()
    found = with_ground_truth(find_topics(two), two, None, "truth: TOPIC in the recipe's data")
    assert found.ground_truth == "/annotations/labels", "the shorter name of two as good"
    assert found.notes[0].endswith(". Choose with truth: TOPIC in the recipe's data.")
    named = with_ground_truth(find_topics(two), two, "/annotations/labels", "--topic truth:=TOPIC")
    assert (named.ground_truth, named.notes) == ("/annotations/labels", ())


def test_compressed_variant_is_no_other_candidate():
    topics = {"/camera/image_raw": IMAGE, "/camera/image_raw/compressed": SMALL}
    found = find_topics(topics)
    assert found.sensors[CAMERA].topic == "/camera/image_raw"
    assert found.notes == ()
    assert find_topics({"/camera/image_raw/compressed": SMALL}).sensors[CAMERA].type == SMALL


def test_cloud_of_a_depth_camera_is_a_note_and_no_lidar():
    (note,) = [note for note in find_topics(REALSENSE).notes if "LiDAR" in note]
    assert "/camera/camera/depth/color/points" in note


@pytest.mark.parametrize(
    ("robot", "infos"),
    [
        (OURS, {CAMERA: "/camera/camera_info", DEPTH: "/depth/camera_info", EVENT: "/events/camera_info"}),
        (REALSENSE, {
            CAMERA: "/camera/camera/color/camera_info", DEPTH: "/camera/camera/aligned_depth_to_color/camera_info",
        }),
        (ZED, {CAMERA: "/zed/zed_node/rgb/camera_info", DEPTH: "/zed/zed_node/depth/camera_info"}),
        ({"/image_raw": IMAGE, "/camera_info": INFO, "/points": CLOUD}, {CAMERA: "/camera_info"}),
        ({"/a/image": IMAGE, "/b/camera_info": INFO}, {}),
    ],
    ids=["ours", "realsense", "zed", "root", "stranger"],
)  # fmt: skip
def test_camera_info_topic_is_the_one_beside_the_image(robot, infos):
    assert find_topics(robot).infos == infos


@pytest.mark.parametrize(
    ("rules", "truth", "text"),
    [
        (["camera.topic:=/camera/image_rwa"], None, "Did you mean /camera/image_raw?"),
        (["camera.topic:=/depth/camera_info"], None, f"publisher sends {INFO}; accepted are {IMAGE}, {SMALL}."),
        (["camera.type:=sensor_msgs/msg/CompressedImage", "camera.topic:=camera/image_raw"], None,
         f"camera.topic is /camera/image_raw: publisher sends {IMAGE}; accepted are {SMALL}."),
        (["camera.info_topic:=/lens"], None, "camera.info_topic is /lens"),
        ([], "/events", f"accepted are {IMAGE}, {SMALL}."),
        ([], "/nowhere", "truth is /nowhere, but the bag has no such topic"),
    ],
)  # fmt: skip
def test_invalid_topic_choice_is_rejected(rules, truth, text):
    with pytest.raises(BagError, match=r"[.?]$") as caught:
        with_ground_truth(find_topics(OURS, described(*rules)), OURS, truth, "--topic truth:=TOPIC")
    assert text in str(caught.value)


def test_missing_topic_of_a_parameter_file_is_a_note_unless_required(tmp_path):
    """A rig's file serves a recording of some of its sensors."""
    file = tmp_path / "rig.yaml"
    file.write_text("/**: {ros__parameters: {lidar: {topic: /roof/points}, depth: {info_topic: /lens}}}\n")
    found = find_topics(OURS, load_parameters(file))
    assert set(found.sensors) == {CAMERA, DEPTH, EVENT} and DEPTH not in found.infos
    assert found.notes == (
        "the bag has no topic /roof/points, which lidar.topic names; it is ignored.",
        "the bag has no topic /lens, which depth.info_topic names; it is ignored.",
    )
    with pytest.raises(BagError, match="lidar is required, but the bag has no topic of it"):
        find_topics(OURS, load_parameters(file, ["lidar.required:=true"]))


def test_type_parameter_selects_the_topic_and_disabled_sensors_are_skipped():
    both = {"/camera/image_raw": IMAGE, "/camera/image_raw/compressed": SMALL, "/lidar/points": CLOUD}
    found = find_topics(both, described(f"camera.type:={SMALL}", "modalities:=[camera]"))
    assert {m: s.topic for m, s in found.sensors.items()} == {CAMERA: "/camera/image_raw/compressed"}


def test_relative_names_resolve_as_in_the_node():
    topics = {"/robot/front/image": IMAGE, "/robot/front/lens": INFO, "/camera/image_raw": IMAGE}
    rules = "camera.topic:=front/image", "camera.info_topic:=front/lens"
    found = find_topics(topics, load_parameters(None, rules, "/robot/mlesam"))
    assert found.sensors[CAMERA].topic == "/robot/front/image" and found.infos == {CAMERA: "/robot/front/lens"}


def test_error_without_sensors_lists_the_topics():
    with pytest.raises(BagError, match=r"/imu \(sensor_msgs/msg/Imu\)"):
        find_topics({"/imu": IMU})


def test_modality_without_message_type_is_skipped():
    assert set(find_topics(OURS, modalities=(CAMERA, "near_infrared")).sensors) == {CAMERA}


def test_output_topics_of_the_node_are_no_sensors():
    results = {
        "/mlesam/overlay": IMAGE,
        "/mlesam/labels": IMAGE,
        "/mlesam/confidence": IMAGE,
        "/mlesam/semantic_points": CLOUD,
    }
    assert {m: s.topic for m, s in find_topics({**results, **METAVISION}).sensors.items()} == {
        EVENT: "/event_camera/events"
    }
