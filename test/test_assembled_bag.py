# SPDX-License-Identifier: Apache-2.0
"""Real frames and real events in one bag."""

import json

import cv2
import numpy as np
import pytest
from assembled_bag import COMPRESSED_TOPIC, assemble_real_bag

from mlesam_ros.bags.calibrated_frame import load_calibrated_frame
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.errors import BagError, CalibrationError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import TransformTree
from mlesam_ros.messages import FrameReader, transforms
from mlesam_ros.types import CAMERA, EVENT, LIDAR


@pytest.fixture(scope="module")
def folders(shared_data):
    return shared_data / "camera_lidar/opencalib_ours_1", shared_data / "events/test_events_1"


@pytest.fixture(scope="module")
def bag(tmp_path_factory, folders):
    result = assemble_real_bag(*folders, tmp_path_factory.mktemp("real") / "bag")
    assert (result.frames, result.packets, result.warnings) == (21, 517, ())
    return result.path


def test_the_real_bytes_are_in_it(bag, folders):
    with BagReader(bag) as reader:
        picture = next(reader.messages([COMPRESSED_TOPIC])).message
        assert bytes(picture.data) == (folders[0] / "calib.jpg").read_bytes() and picture.format == "jpeg"
        cloud = next(reader.messages(["/lidar/points"])).message
        assert (cloud.width, cloud.point_step, len(cloud.fields)) == (101_340, 26, 6)
        packets = [bytes(entry.message.events) for entry in reader.messages(["/events"])]
    with BagReader(folders[1]) as reader:
        assert packets == [bytes(entry.message.events) for entry in reader]
    assert "do not belong together" in (bag / "metadata.yaml").read_text()


def test_every_sensor_can_be_read_on_one_clock(bag):
    stamps = {CAMERA: [], LIDAR: [], EVENT: []}
    topics = {COMPRESSED_TOPIC: CAMERA, "/lidar/points": LIDAR, "/events": EVENT}
    with BagReader(bag) as reader:
        readers = {topic: FrameReader(modality, reader.topics[topic]) for topic, modality in topics.items()}
        for topic, _, _, message in reader.messages(topics):
            stamps[topics[topic]].append(readers[topic].read(message).stamp)
        points = next(reader.messages(["/lidar/points"])).message
    assert np.all(np.diff(stamps[CAMERA]) == 100_000_000) and stamps[CAMERA] == stamps[LIDAR]
    assert abs(stamps[CAMERA][0] - stamps[EVENT][0]) < 50_000_000
    assert abs(stamps[CAMERA][-1] - stamps[EVENT][-1]) < 150_000_000
    newest = FrameReader(LIDAR, "sensor_msgs/msg/PointCloud2").read(points).payload.points["timestamp"].max()
    assert newest == pytest.approx(stamps[LIDAR][0] / 1e9, abs=1e-6)


def test_the_mounting_projects_the_published_number_of_points(bag, folders):
    """12,437 points of this frame land in the picture (data sheet of the recording)."""
    tree = TransformTree()
    with BagReader(bag) as reader:
        for parent, child, pose, _ in transforms(next(reader.messages(["/tf_static"])).message):
            tree.set(parent, child, pose)
        info = CameraModel.from_info(next(reader.messages(["/camera/camera_info"])).message)
        cloud = FrameReader(LIDAR, reader.topics["/lidar/points"]).read(
            next(reader.messages(["/lidar/points"])).message
        )
    points = cloud.payload.points.reshape(-1)
    xyz = np.stack([points[name] for name in "xyz"], 1).astype(np.float64)
    seen = tree.lookup("camera_optical_frame", "lidar").apply(xyz)
    # The count was taken in the undistorted picture.
    uv, _ = CameraModel(info.width, info.height, info.K, [], "pinhole").project(seen)
    inside = (seen[:, 2] > 1) & (uv >= 0).all(axis=1) & (uv < [info.width, info.height]).all(axis=1)
    # A quaternion cannot carry the last digits of a matrix that is a rotation to six figures only.
    assert inside.sum() == pytest.approx(12_437, abs=5)
    assert "event_camera_optical_frame" in tree.frames


def test_pixels_instead_of_the_file(tmp_path, folders):
    assemble_real_bag(*folders, tmp_path / "bag", compressed=False)
    with BagReader(tmp_path / "bag") as reader:
        image = next(reader.messages(["/camera/image_raw"])).message
    truth = cv2.cvtColor(cv2.imread(str(folders[0] / "calib.jpg")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(image.data.reshape(image.height, image.width, 3), truth)


def test_a_calibration_for_another_size_is_refused_with_both_numbers(tmp_path, folders, shared_data):
    with pytest.raises(CalibrationError, match=r"opencalib_manual.*1920x1200.*1920x1080"):
        assemble_real_bag(shared_data / "camera_lidar/opencalib_manual", folders[1], tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def make_still(
    folder, size=(40, 30), calibration="K: 50 0 20 0 50 15 0 0 1\nD: 0 0 0 0\nT: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
):
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((size[1], size[0], 3), np.uint8))
    (folder / "calib.txt").write_text(calibration)
    head = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n"
    (folder / "a.pcd").write_text(head + "5 0 0\n")
    return folder


def as_json(folder, **changes):
    """The calibration in the other layout, a part of it changed."""
    (folder / "calib.txt").unlink()
    lens = {"img_dist_w": 40, "img_dist_h": 30, "cam_K": {"data": [[50, 0, 20], [0, 50, 15], [0, 0, 1]]},
            "cam_dist": {"data": [[0, 0, 0, 0]]}, **changes}  # fmt: skip
    place = {"sensor_calib": {"data": np.eye(4).tolist()}}
    for name, part in (("intrinsic", lens), ("extrinsic", place)):
        (folder / f"a-{name}.json").write_text(json.dumps({"x": {"param": part}}))


def test_a_still_is_read_without_any_shared_data(tmp_path):
    still = load_calibrated_frame(make_still(tmp_path / "still"))
    assert (still.image.width, still.image.height, len(still.points)) == (40, 30, 1)
    seen = still.camera_from_lidar.apply(np.array([[5.0, 0, 0]]))
    assert np.allclose(still.camera.project(seen)[0], [[20, 15]])


@pytest.mark.parametrize(
    ("spoil", "error", "word"),
    [
        (lambda f: (f / "a.png").unlink(), BagError, "image"),
        (lambda f: (f / "a.png").write_bytes(b"no"), BagError, "neither JPEG nor PNG"),
        (lambda f: (f / "a.pcd").unlink(), BagError, ".pcd"),
        (lambda f: (f / "calib.txt").unlink(), BagError, "intrinsic"),
        (lambda f: (f / "calib.txt").write_text("K: 1 2 3\n"), CalibrationError, "calibration"),
        (lambda f: (f / "calib.txt").write_text("hello"), CalibrationError, "calibration"),
        (lambda f: as_json(f, img_dist_w=float("inf")), CalibrationError, "the calibration in .* cannot be read"),
        (lambda f: as_json(f, cam_K=[5]), CalibrationError, "the calibration in .* cannot be read"),
    ],
)
def test_what_is_missing_in_a_still_is_named(tmp_path, spoil, error, word):
    folder = make_still(tmp_path / "still")
    spoil(folder)
    with pytest.raises(error, match=word):
        load_calibrated_frame(folder)


def test_a_bag_without_events_is_refused_and_nothing_is_left_behind(tmp_path):
    from mlesam_ros.bags.writer import BagWriter

    with BagWriter(tmp_path / "other") as writer:
        writer.add("/a", "std_msgs/msg/Header", 1, {})
    with pytest.raises(BagError, match=r"0 topics of event_camera_msgs"):
        assemble_real_bag(make_still(tmp_path / "still"), tmp_path / "other", tmp_path / "bag")
    assert not (tmp_path / "bag").exists()
