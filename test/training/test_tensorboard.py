"""The event file: checksums by their published values, framing and fields byte by byte."""

import struct

import pytest

from mlesam_training.tensorboard_writer import ScalarFile, _masked, crc32c


@pytest.mark.parametrize(
    ("data", "crc"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_checksums_of_rfc_3720(data, crc):
    assert crc32c(data) == crc


def records(path):
    data = path.read_bytes()
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert struct.pack("<I", check) == _masked(data[:8])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert data[:4] == _masked(body)
        yield body
        data = data[4:]


def test_events_as_tensorboard_reads_them(tmp_path):
    scalars = ScalarFile(tmp_path / "board", 300)
    scalars.add(300, {"loss": 1.5, "lr": -0.25})
    (path,) = (tmp_path / "board").iterdir()
    assert "tfevents" in path.name
    version, event = records(path)
    assert version[9:] == b"\x10\x00" + b"\x1a\x0dbrain.Event:2"
    values = b"\x0a\x0b\x0a\x04loss\x15" + struct.pack("<f", 1.5) + b"\x0a\x09\x0a\x02lr\x15" + struct.pack("<f", -0.25)
    assert event[0:1] == b"\x09" and event[9:] == b"\x10\xac\x02" + b"\x2a" + bytes([len(values)]) + values
