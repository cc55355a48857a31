# SPDX-License-Identifier: Apache-2.0
"""Messages as an enemy would send them: mostly well-formed, with a few fields or bytes damaged."""

import random
import struct
from types import SimpleNamespace as Fields

import numpy as np
from hypothesis import strategies as st

from mlesam_ros.preprocessing.event_stream import ENCODINGS
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.preprocessing.images import CAMERA_LAYOUTS, DEPTH_LAYOUTS

U8, U16, U32, I32 = (st.integers(0, 2**n - 1) for n in (8, 16, 32, 32))
U64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 9)
UINT = SMALL | U32
SIGNED = st.integers(-(2**31), 2**31 - 1) | st.just(0)
F64 = st.floats(width=64) | st.floats(-10, 10) | st.sampled_from([0.0, 1e308, -1e308, 5e-324, float("nan")])
NAMES = st.sampled_from(["camera", "lidar", "event", "depth", "base", "odom", "", "/camera", "a\nb"]) | st.text(
    max_size=5
)
BYTES = st.binary(max_size=160)


def array(data):
    return np.frombuffer(bytes(data), np.uint8)


@st.composite
def damaged(draw, good, **kinds):
    """The fields of `good`, up to three of them replaced by anything of their type."""
    fields = dict(good)
    for name in draw(st.lists(st.sampled_from(sorted(kinds)), max_size=3)):
        fields[name] = draw(kinds[name])
    return Fields(**fields)


@st.composite
def mauled(draw, data):
    """Bytes cut, lengthened, or with some of them changed; one number says how, since many draws cost time."""
    rng, data = random.Random(draw(U32)), bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        if data:
            data[rng.randrange(len(data))] = rng.choice([0, 255, rng.randrange(256)])
    cut = rng.randrange(len(data) + 1) if rng.random() < 0.3 else len(data)
    return bytes(data[:cut]) + (rng.randbytes(rng.randrange(9)) if rng.random() < 0.2 else b"")


STAMP = st.builds(Fields, sec=SIGNED | st.just(1_700_000_000), nanosec=UINT)


def headers(frame):
    """Mostly of a frame that the rig knows."""
    return st.builds(
        Fields, stamp=STAMP, frame_id=st.integers(0, 3).flatmap(lambda n: NAMES if n == 0 else st.just(frame))
    )


HEADER = headers("base")


@st.composite
def pictures(draw, layouts=None):
    layouts = layouts or {**CAMERA_LAYOUTS, **DEPTH_LAYOUTS}
    encoding = draw(st.sampled_from(sorted(layouts)))
    layout = layouts[encoding]
    height, width = draw(st.sampled_from([(6, 8), (6, 8), (3, 4), (1, 1), (12, 16)]))
    step = width * layout.channels * np.dtype(layout.dtype).itemsize + draw(st.integers(0, 3))
    size = int(height * layout.lines) * step
    data = array(draw(st.binary(min_size=size, max_size=size) | st.just(b"\0" * size)))
    return draw(damaged(
        {"header": draw(headers("camera")), "height": height, "width": width, "encoding": encoding, "step": step,
         "data": data, "is_bigendian": draw(st.integers(0, 1))},
        height=UINT, width=UINT, encoding=st.sampled_from(sorted(layouts)) | st.text(max_size=8), step=UINT,
        data=BYTES.map(array), is_bigendian=U8,
    ))  # fmt: skip


@st.composite
def files(draw, examples):
    """sensor_msgs/CompressedImage: real little pictures with damage, and rubbish."""
    formats = ["jpeg", "png", "rgb8; png compressed bgr8", "16UC1; compressedDepth png", "32FC1; compressedDepth png",
               "16UC1; compressedDepth rvl", "32FC1; compressedDepth rvl"]  # fmt: skip
    form = draw(st.sampled_from(formats) | st.text(max_size=10))
    data = draw(st.sampled_from(examples) | st.sampled_from(examples).flatmap(mauled) | BYTES)
    head = struct.pack("<iff", 0, draw(st.sampled_from([100.0, 100.0, 0.0, float("nan")])), 1.0)
    data = (head if ("compressedDepth" in form) != (draw(SMALL) == 0) else b"") + data
    return Fields(header=draw(headers("camera")), format=form, data=array(data))


POINT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
EXTRAS = [
    "intensity",
    "i",
    "t",
    "time",
    "timestamp",
    "time_stamp",
    "offset_time",
    "ring",
    "channel",
    "reflectivity",
    "",
]


@st.composite
def point_fields(draw):
    columns = [("x", 7), ("y", 7), ("z", 7)] if draw(st.booleans()) else [(axis, 8) for axis in "xyz"]
    columns += draw(st.lists(st.tuples(st.sampled_from(EXTRAS), st.integers(1, 8)), max_size=3))
    offset, fields = 0, []
    for name, kind in columns:
        count = draw(st.sampled_from([1, 1, 1, 0, 3]))
        good = {"name": name, "offset": offset, "datatype": kind, "count": count}
        if draw(st.integers(0, 9)) == 0:
            fields.append(draw(damaged(good, name=NAMES, offset=UINT, datatype=U8, count=UINT)))
        else:
            fields.append(Fields(**good))
        offset += np.dtype(POINT_TYPES[kind]).itemsize * max(count, 1) + draw(st.sampled_from([0, 0, 2]))
    return fields, offset


@st.composite
def clouds(draw):
    fields, step = draw(point_fields())
    rows, columns = draw(st.sampled_from([(1, 0), (1, 1), (1, 5), (2, 3)]))
    size = rows * columns * step
    data = draw(
        st.binary(min_size=size, max_size=size) | st.just(b"\0\0\x80\x3f" * (size // 4 + 1)).map(lambda b: b[:size])
    )
    return draw(damaged(
        {"header": draw(headers("lidar")), "height": rows, "width": columns, "fields": fields, "point_step": step,
         "row_step": step * columns, "data": array(data), "is_bigendian": draw(st.booleans()), "is_dense": True},
        height=UINT, width=UINT, point_step=UINT, row_step=UINT, data=BYTES.map(array), fields=st.just([]),
    ))  # fmt: skip


@st.composite
def event_bytes(draw):
    """Words of two and of eight bytes, real packets with damage, and rubbish."""
    way = draw(st.integers(0, 3))
    if way == 0:
        return draw(st.binary(max_size=80))  # the type of an EVT3 word is its top four bits, so that every one occurs
    if way == 1:
        count = draw(st.integers(1, 12))
        rng = np.random.default_rng(draw(U8))
        t = np.cumsum(rng.integers(0, draw(st.sampled_from([3, 5000, 1_000_000])), count))
        x, y, polarity = rng.integers(0, 40, count), rng.integers(0, 30, count), rng.integers(0, 2, count)
        return draw(mauled(encode_evt3(x, y, t, polarity).tobytes()))
    if way == 2:
        data = draw(st.binary(max_size=128))
        return data[: len(data) // 8 * 8]
    return draw(BYTES)


@st.composite
def packets(draw):
    """A few packets of one camera, mostly of one encoding."""
    encoding = draw(st.sampled_from(ENCODINGS))
    made = []
    for seq in range(draw(st.integers(1, 3))):
        good = {
            "header": draw(headers("event")), "height": 30, "width": 40, "seq": seq,
            "time_base": draw(st.just(0) | U64), "encoding": encoding,
            "is_bigendian": draw(st.booleans()), "events": array(draw(event_bytes())),
        }  # fmt: skip
        made.append(draw(damaged(
            good, height=UINT, width=UINT, seq=U64, encoding=st.sampled_from(ENCODINGS) | st.text(max_size=9),
        )))  # fmt: skip
    return made


@st.composite
def event_arrays(draw):
    """Serialized dvs_msgs and prophesee_event_msgs arrays, one after the other from one camera."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        order = draw(st.sampled_from("<>"))
        frame = draw(st.sampled_from([b"event\0", b"event\0", b"\0", b"", b"a\0"]))
        raw = bytearray((b"\0\1" if order == "<" else b"\0\0") + b"\0\0")
        raw += struct.pack(order + "iII", draw(SIGNED), draw(U32), len(frame)) + frame + b"\0" * (-len(frame) % 4)
        rng = random.Random(draw(U32))
        sec, nanosec = rng.choice([0, 1_700_000_000, -5]), rng.randrange(2**32)
        events = [
            (rng.randrange(50), rng.randrange(40), sec + (rng.random() < 0.1), nanosec + 1000 * n & 0xFFFFFFFF, n % 2)
            for n in range(rng.randrange(7))
        ]
        raw += struct.pack(order + "III", 30, 40, len(events))
        for number, (x, y, sec, nanosec, polarity) in enumerate(events):
            raw += struct.pack(order + "HH", x, y) + b"\0\0" * (number > 0)
            raw += struct.pack(order + "iIB", sec, nanosec, polarity) + b"\0" * (number + 1 < len(events))
        made.append(draw(mauled(raw)))
    return made


NUMBERS = st.lists(F64, max_size=15)
ROI = st.builds(Fields, x_offset=UINT, y_offset=UINT, width=UINT, height=UINT, do_rectify=st.booleans())
K, P = [5.0, 0, 3.5, 0, 5.0, 2.5, 0, 0, 1], [5.0, 0, 3.5, 0, 0, 5.0, 2.5, 0, 0, 0, 1, 0]
MODELS = ["plumb_bob", "rational_polynomial", "equidistant", "fisheye", "pinhole", "none", ""]


@st.composite
def numbers(draw, good):
    """As many numbers, some of them others."""
    values = list(good)
    for at, value in draw(st.lists(st.tuples(st.integers(0, max(len(values) - 1, 0)), F64), max_size=3)):
        if values:
            values[at] = value
    return np.array(values)


@st.composite
def camera_infos(draw):
    count = draw(st.sampled_from([0, 4, 5, 8, 12, 14]))
    d = draw(st.lists(st.floats(-1, 1) | F64, min_size=count, max_size=count))
    good = {
        "header": draw(HEADER), "height": 6, "width": 8, "distortion_model": draw(st.sampled_from(MODELS)),
        "d": np.array(d), "k": draw(numbers(K)), "r": draw(numbers(np.eye(3).ravel())), "p": draw(numbers(P)),
        "binning_x": draw(st.sampled_from([0, 1, 2])), "binning_y": 0, "roi": Fields(
            x_offset=0, y_offset=0, width=0, height=0, do_rectify=False),
    }  # fmt: skip
    return draw(damaged(
        good, height=UINT, width=UINT, distortion_model=st.text(max_size=9), d=NUMBERS, binning_x=UINT,
        binning_y=UINT, roi=ROI, k=st.just([0.0] * 9), p=st.just([0.0] * 12), r=st.just([0.0] * 9),
    ))  # fmt: skip


XYZ = st.builds(Fields, x=F64, y=F64, z=F64)
TURN = st.sampled_from([(0, 0, 0, 1), (-0.5, 0.5, -0.5, 0.5), (0, 0, 0, 0), (0, 0, 0, 1.005)]) | st.tuples(
    F64, F64, F64, F64
)
POSE = st.builds(Fields, translation=XYZ, rotation=TURN.map(lambda q: Fields(**dict(zip("xyzw", q, strict=True)))))
TRANSFORMS = st.builds(
    Fields,
    transforms=st.lists(st.builds(Fields, header=HEADER, child_frame_id=NAMES, transform=POSE), max_size=5),
)
