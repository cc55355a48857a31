# SPDX-License-Identifier: Apache-2.0
"""`mlesam sensors check` and `show`."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from mlesam_ros.bags import serialization as fields
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.cli.sensors_scene import open_scene
from mlesam_ros.config import load_parameters
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.resources import resource_path

EXAMPLE = resource_path("config/rigs/example.yaml")


def damaged(tmp_path, **change):
    fields = yaml.safe_load(EXAMPLE.read_text())
    fields["cameras"]["camera_optical_frame"].update(change)
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_valid_calibration_is_good(mlesam):
    result = mlesam("sensors", "check", EXAMPLE)
    assert result.exit_code == 0
    assert result.stdout.endswith(f"{EXAMPLE}: good\n")


def test_each_error_is_one_line_and_exit_code_is_1(mlesam, tmp_path):
    result = mlesam("sensors", "check", damaged(tmp_path, heigth=1200, K=[0.5, 2155, 9000, 600]))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert sum(line.startswith("error") for line in lines) == 3
    assert any(line.endswith("it has the unknown key 'heigth'. Did you mean height?") for line in lines)
    assert lines[-1].endswith("rig.yaml: wrong")


def test_warnings_exit_with_0(mlesam, tmp_path):
    result = mlesam("sensors", "check", damaged(tmp_path, D=[-4.0, 0, 0, 0]), "--json", "-")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["verdict"] == "doubtful"
    assert {finding["severity"] for finding in shown["findings"]} == {"warning", "note"}
    assert set(shown["findings"][0]) == {"severity", "subject", "message", "remedy"}


def test_image_size_is_checked_against_its_camera(mlesam, tmp_path):
    fits, other = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("L", (1920, 1200)).save(fits)
    Image.new("L", (1920, 1080)).save(other)
    assert mlesam("sensors", "check", EXAMPLE, "--image", fits).exit_code == 0
    result = mlesam("sensors", "check", EXAMPLE, "--image", fits, "--image", f"camera_optical_frame={other}")
    assert result.exit_code == 1
    assert "b.png is 1920x1080 but its calibration is for 1920x1200" in result.stdout
    fitted = damaged(tmp_path, picture=[1920, 1080], fit="crop_center")
    assert mlesam("sensors", "check", fitted, "--image", other).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nowhere.yaml"], "nowhere.yaml is not a file"),
        (["check", EXAMPLE, "--image", "nowhere.png"], "nowhere.png is not a readable image"),
        (["show", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["show", ".", "--out", "out"], ". is no bag"),
        (["show", ".", "--out", "out", "--topic", "lidar"], "Write SENSOR:=TOPIC"),
        (["show", ".", "--out", "out", "--topic", "truth:=/x"], "is for 'truth'"),
    ],
)
def test_bad_input_ends_in_one_sentence(mlesam, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = mlesam("sensors", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("mlesam: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_invalid_yaml_is_a_finding(mlesam, tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text("a: [")
    result = mlesam("sensors", "check", path)
    assert result.exit_code == 1
    assert result.stdout.startswith("error    file: calibration file")


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    from mlesam_ros.simulation.export import write_simulated_bag
    from mlesam_ros.simulation.world import World

    path = tmp_path_factory.mktemp("bag") / "street"
    write_simulated_bag(path, World(0, "sun", (128, 128), length=3), progress=lambda done: None)
    return path


def test_disabled_sensor_is_not_reported_as_missing(mlesam, street, tmp_path):
    """Kind: a remedy that leaves the fault as it is. The bag has the sweeps; naming their topic changes nothing."""
    rules = ["-p", "modalities:=[camera]", "--topic", "lidar:=/lidar/points"]
    result = mlesam("sensors", "show", street, "--out", tmp_path / "out", *rules)
    assert result.exit_code == 2 and "Add lidar to modalities." in result.stderr
    rules[1] = "modalities:=[camera, lidar]"
    assert mlesam("sensors", "show", street, "--out", tmp_path / "out", *rules).exit_code == 0


def test_bag_is_drawn(mlesam, street, tmp_path):
    arguments = ["sensors", "show", street, street, "--encodings", "--out", tmp_path / "out"]
    result = mlesam(*arguments, "--json", tmp_path / "shown.json")
    assert result.exit_code == 0, result.stderr
    first, second = json.loads((tmp_path / "shown.json").read_text())["frames"]
    assert second["files"][0].endswith("street_2.png")
    assert {re.sub(r".*street_", "", f) for f in first["files"][1:]} == {
        "camera_rgb.png", "depth_log_depth.png", "event_event_counts.png", "lidar_range_intensity_height.png",
    }  # fmt: skip
    assert 100 < first["landed"] < first["points"]
    sheet = np.asarray(Image.open(first["files"][0]))
    assert sheet.shape[1] == 1024
    # What is drawn where many points lie is saturated; the dimmed picture is not.
    assert (sheet.max(axis=2).astype(int) - sheet.min(axis=2) > 180).sum() > 1000
    for file in first["files"]:
        assert np.asarray(Image.open(file)).std() > 5


def test_added_rotation_moves_the_points(mlesam, street, tmp_path):
    def landed(*turn):
        result = mlesam("sensors", "show", street, "--out", tmp_path, *turn, "--json", "-")
        return json.loads(result.stdout)["frames"][0]["landed"]

    assert landed("--pitch", "40") < landed()
    assert landed("--pitch", "90") == 0


def test_points_project_correctly_on_a_moving_robot(tmp_path):
    """The kind: a second placement. 10 m/s ahead, the sweep 40 ms after the image; pixels by the pinhole formula."""
    start, image = 1_700_000_000_000_000_000, np.zeros((24, 32, 3), np.uint8)
    camera = CameraModel(32, 24, np.array([[20.0, 0, 15.5], [0, 20.0, 11.5], [0, 0, 1]]), np.zeros(5), "plumb_bob")
    optical = Transform.from_quaternion((0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5))  # REP 103
    late, speed, ahead = 40_000_000, 10.0, np.array([4.0, 6.0, 9.0])
    points = np.zeros(3, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    points["x"], points["y"] = ahead, [1.5, -2.0, 3.5]
    with BagWriter(tmp_path / "drive") as bag:
        mounting = [("base", "lidar", Transform.identity()), ("base", "camera", optical)]
        bag.add("/tf_static", "tf2_msgs/msg/TFMessage", start, fields.transforms(mounting, 0), latched=True)
        for step in range(60):
            stamp = start + step * 25_000_000
            moved = Transform(np.eye(3), [speed * (stamp - start) / 1e9, 0, 0])
            bag.add(
                "/tf", "tf2_msgs/msg/TFMessage", stamp - 50_000_000, fields.transforms([("odom", "base", moved)], stamp)
            )
            if step % 4 == 0:
                info, swept = fields.camera_info(stamp, "camera", camera), stamp + late
                bag.add("/camera/camera_info", "sensor_msgs/msg/CameraInfo", stamp, info)
                bag.add(
                    "/camera/image_raw", "sensor_msgs/msg/Image", stamp, fields.pixels(stamp, "camera", image, "rgb8")
                )
                cloud = fields.point_cloud(swept, "lidar", points)
                bag.add("/lidar/points", "sensor_msgs/msg/PointCloud2", swept, cloud)
    scene = open_scene(tmp_path / "drive", None, None, load_parameters(), 0.3)
    depth = ahead + speed * late / 1e9  # what is measured later is farther from where the image was taken
    u = 20 * -points["y"] / depth + 15.5
    _, columns, meters = scene.projected
    assert columns.tolist() == np.floor(u + 0.5).tolist()
    np.testing.assert_allclose(meters, np.hypot(depth, points["y"]), atol=1e-3)
    assert scene.rotated(yaw=90.0, pitch=0.0, roll=0.0).landed == 0


def test_calibration_file_takes_precedence_over_the_bag(mlesam, street, tmp_path):
    calibration = damaged(tmp_path)
    result = mlesam("sensors", "show", street, "--calibration", calibration, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "camera image is 128x128 but its calibration is for 1920x1200" in result.stderr


def test_recorded_frames(mlesam, shared_data, tmp_path):
    """Points that land in the distorted picture; more than in the undistorted one, whose counts others published."""
    frames = [shared_data / "camera_lidar" / name for name in ("opencalib_ours_1", "opencalib_ours_2")]
    shown = json.loads(mlesam("sensors", "show", *frames, "--out", tmp_path, "--json", "-").stdout)["frames"]
    assert [frame["landed"] for frame in shown] == [12_663, 11_093]
    assert [frame["best_added_yaw_degrees"] for frame in shown] == [0, 0]
    assert {frame["score_from"] for frame in shown} == {"masks"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opencalib_ours_1.png", "opencalib_ours_2.png"]


def test_mismatched_image_size_needs_fit(mlesam, shared_data, tmp_path):
    frame = shared_data / "camera_lidar" / "opencalib_manual"
    refused = mlesam("sensors", "show", frame, "--out", tmp_path)
    assert refused.exit_code == 2
    assert "opencalib_manual cannot be used: image is 1920x1200 but its calibration is for 1920x1080" in refused.stderr
    accepted = mlesam("sensors", "show", frame, "--fit", "crop_top", "--out", tmp_path)
    assert accepted.exit_code == 0
    assert "9,964 of 78,238 points are inside the image" in accepted.stdout
