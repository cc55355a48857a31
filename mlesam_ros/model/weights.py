# SPDX-License-Identifier: Apache-2.0
"""Weights by name: those that ship with this package, and those that Meta publishes, downloaded into a cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from mlesam_ros.errors import CheckpointError, ConfigError
from mlesam_ros.files import exclusive_folder, expand_path, format_size, write_error
from mlesam_ros.resources import cache_folder, resource_path
from mlesam_ros.strict_yaml import check_choice

Progress = Callable[[int, int], None]

FOLDER_VARIABLE = "MLESAM_WEIGHTS"
"""Environment variable: folder of the downloaded weights."""
LICENSE = "Apache License 2.0, Meta Platforms, Inc."
"""License of all published weights: section License of both repositories' README.md."""

_SAM2 = "https://github.com/facebookresearch/sam2"
_SAM1 = "https://github.com/facebookresearch/segment-anything"
_SAM2_1_FILES = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
_SAM2_0_FILES = "https://dl.fbaipublicfiles.com/segment_anything_2/072824"
_SAM1_FILES = "https://dl.fbaipublicfiles.com/segment_anything"
_TIMEOUT_S = 30.0  # of the connection, and without data
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class PublishedWeights:
    """Row of the table of published weights.

    Attributes:
        backbone: a name in `BACKBONES`.
        project: repository that publishes the file and its license.
        url: address of the file.
        size: bytes.
        sha256: of the file.
    """

    backbone: str
    project: str
    url: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Path in the cache folder."""
        return weights_folder() / self.file

    @property
    def partial(self) -> Path:
        """Path of an unfinished download, in a folder of its own that is locked meanwhile."""
        return self.path.with_name(f"{self.file}.download") / self.file

    @property
    def state(self) -> str:
        """State in the cache folder: `downloaded`, `damaged` (another size), `partial` or `missing`."""
        if (size := _size(self.path)) is not None:
            return "downloaded" if size == self.size else "damaged"
        return "missing" if _size(self.partial) is None else "partial"


# URLs: facebookresearch/sam2, README.md, sections Download Checkpoints and SAM 2 checkpoints;
# facebookresearch/segment-anything, README.md, section Model Checkpoints.
# Meta publishes no SHA-256; the six digits in the names of SAM 1's files begin their MD5. The ones below are beside the
# same URLs in computational-cell-analytics/micro-sam: micro_sam/util.py at 00006fc (SAM 1) and micro_sam/v2/util.py at
# 4f6cca8 (SAM 2). mazurowski-lab/SlicerSegmentWithSAM, SegmentWithSAM.py at 09079a9, has the same for SAM 1 and 2.0.
# Sizes: segment-anything-models-java/SAMJ, Sam2EnvManager.java, and dafne-imaging/dafne, sam_mask_refine.py (SAM 1).
# That of sam2_hiera_base_plus is not in SAMJ; several public download scripts agree on it.
# fmt: off
PUBLISHED: dict[str, PublishedWeights] = {
    "sam2.1_hiera_tiny": PublishedWeights(
        "hiera_tiny", _SAM2, f"{_SAM2_1_FILES}/sam2.1_hiera_tiny.pt", 156_008_466,
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    "sam2.1_hiera_small": PublishedWeights(
        "hiera_small", _SAM2, f"{_SAM2_1_FILES}/sam2.1_hiera_small.pt", 184_416_285,
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    "sam2.1_hiera_base_plus": PublishedWeights(
        "hiera_base_plus", _SAM2, f"{_SAM2_1_FILES}/sam2.1_hiera_base_plus.pt", 323_606_802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    "sam2.1_hiera_large": PublishedWeights(
        "hiera_large", _SAM2, f"{_SAM2_1_FILES}/sam2.1_hiera_large.pt", 898_083_611,
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    "sam2_hiera_tiny": PublishedWeights(
        "hiera_tiny", _SAM2, f"{_SAM2_0_FILES}/sam2_hiera_tiny.pt", 155_906_050,
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    "sam2_hiera_small": PublishedWeights(
        "hiera_small", _SAM2, f"{_SAM2_0_FILES}/sam2_hiera_small.pt", 184_309_650,
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    "sam2_hiera_base_plus": PublishedWeights(
        "hiera_base_plus", _SAM2, f"{_SAM2_0_FILES}/sam2_hiera_base_plus.pt", 323_493_298,
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    "sam2_hiera_large": PublishedWeights(
        "hiera_large", _SAM2, f"{_SAM2_0_FILES}/sam2_hiera_large.pt", 897_952_466,
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    "sam_vit_b": PublishedWeights(
        "vit_b", _SAM1, f"{_SAM1_FILES}/sam_vit_b_01ec64.pth", 375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "sam_vit_l": PublishedWeights(
        "vit_l", _SAM1, f"{_SAM1_FILES}/sam_vit_l_0b3195.pth", 1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "sam_vit_h": PublishedWeights(
        "vit_h", _SAM1, f"{_SAM1_FILES}/sam_vit_h_4b8939.pth", 2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}
# fmt: on
"""Name → row."""

_NAMES = {row.file: name for name, row in PUBLISHED.items()}
"""File name → name."""

SHIPPED = {"hiera_nano": "weights/hiera_nano.safetensors", "street": "weights/street.safetensors"}
"""Name → resource: a backbone, and a checkpoint of experts on it."""


def weights_folder() -> Path:
    """Folder of the downloaded weights: `MLESAM_WEIGHTS`, else `mlesam_ros/weights` in the user's cache folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    return expand_path(given) if given else cache_folder() / "weights"


def published_weights(name: str) -> PublishedWeights:
    """Row of published weights.

    Args:
        name: a key of `PUBLISHED`, or the file name.

    Raises:
        ConfigError: no published weights have that name; the message has the nearest one.
    """
    name = _NAMES.get(name, name)
    check_choice("weights", name, PUBLISHED)
    return PUBLISHED[name]


def names_of(backbone: str, without: Path | None = None) -> tuple[str, ...]:
    """Names of the weights of a backbone, without those of a file."""
    files = {name: row.file for name, row in PUBLISHED.items() if row.backbone == backbone}
    files |= {name: Path(resource).name for name, resource in SHIPPED.items() if name == backbone}
    return tuple(name for name, file in files.items() if without is None or without.name != file)


def resolve_weights(given: str | Path) -> Path:
    """Resolve the path of weights that are given by path or by name.

    A file in the working directory takes precedence over a name.

    Args:
        given: path of a file, a name in `PUBLISHED` or `SHIPPED`, or the name of a published file.

    Raises:
        CheckpointError: there is neither such a file nor such a name, or the weights are not downloaded, or not
            completely.
        ConfigError: shipped weights are missing from this installation.
    """
    path = Path(given)
    if path.name != os.fspath(given) or _size(path) is not None:
        return path
    name = _NAMES.get(path.name, path.name)
    if name in SHIPPED:
        return resource_path(SHIPPED[name])
    if name in PUBLISHED:
        return _downloaded(name, PUBLISHED[name])
    if path.is_dir():
        return path
    near = get_close_matches(path.name, (*PUBLISHED, *SHIPPED), 1)
    raise CheckpointError(
        f"there is no weights file {path}, and no weights have that name.",
        f"Did you mean {near[0]}?" if near else "See the names: mlesam weights.",
    )


def resolve_base_weights(backbone: str, given: str | Path | None) -> Path:
    """Resolve the path of frozen backbone weights.

    Args:
        backbone: a name in `BACKBONES`.
        given: path or name, see `resolve_weights`; None for the weights that ship with this package.

    Raises:
        CheckpointError: this package ships no weights for that backbone, or see `resolve_weights`.
        ConfigError: shipped weights are missing from this installation.
    """
    if given is not None:
        return resolve_weights(given)
    if backbone in SHIPPED:
        return resource_path(SHIPPED[backbone])
    raise CheckpointError(
        f"the weights of {backbone} do not come with this package.",
        f"Give {' or '.join(names_of(backbone))} as base weights, the one that the experts were trained on.",
    )


def download(row: PublishedWeights, base_url: str | None = None, report: Progress = lambda done, total: None) -> Path:
    """Download weights into the cache folder and check their SHA-256; weights that are there already are checked only.

    An interrupted download is continued by the next call.

    Args:
        row: the weights.
        base_url: address of a folder that has the file, instead of Meta's.
        report: called with the number of bytes and the total.

    Returns:
        path of the file.

    Raises:
        CheckpointError: the server cannot be reached, does not have the file or has another one, the connection broke
            off, or the file in the cache folder is not the published one.
        ConfigError: `base_url` is not an address.
        FileError: the disk is full, the folder is not writable, or another process downloads the same weights.
    """
    url = row.url if base_url is None else f"{_checked(base_url)}/{row.file}"
    path, partial = row.path, row.partial
    if _size(path) is None:
        with exclusive_folder(partial.parent, "download"):
            if _size(path) is None:  # another process may have finished meanwhile
                _fetch(url, row, report)
                if (found := _sha256(partial)) != row.sha256:
                    partial.unlink()
                    raise CheckpointError(
                        f"the download from {url} has SHA-256 {found}, but {row.file} has {row.sha256}.",
                        "Repeat the command, or choose another --base-url.",
                    )
                os.replace(partial, path)
        with suppress(OSError):
            partial.parent.rmdir()
    elif (found := _sha256(path)) != row.sha256:
        raise CheckpointError(
            f"{path} has SHA-256 {found}, but {row.file} has {row.sha256}.", "Delete the file and repeat the command."
        )
    return path


def _downloaded(name: str, row: PublishedWeights) -> Path:
    """Path of downloaded weights."""
    command = f"mlesam weights get {name}"
    size = _size(row.path)
    if size is None:
        raise CheckpointError(f"the weights {name} are not in {weights_folder()}.", f"Download them: {command}.")
    if size != row.size:
        raise CheckpointError(
            f"{row.path} has {size} bytes, but {name} has {row.size}.",
            f"Delete the file and download it again: {command}.",
        )
    return row.path


def _checked(base_url: str) -> str:
    """Address of a mirror's folder, without a slash at its end."""
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigError(f"--base-url is {base_url!r}; accepted are addresses that begin with http:// or https://.")
    return base_url.rstrip("/")


def _fetch(url: str, row: PublishedWeights, report: Progress) -> None:
    """Download the rest of a file.

    Raises:
        CheckpointError, FileError: see `download`.
    """
    partial = row.partial
    there = _size(partial) or 0
    if there >= row.size:
        return
    with _request(url, row, there) as response:
        done = there if response.status == 206 else 0  # another status: the server does not support ranges
        length = response.headers.get("Content-Length", "")
        if response.headers.get_content_type() == "text/html" or (length.isdigit() and done + int(length) != row.size):
            raise CheckpointError(
                f"{url} is not {row.file}, which has {row.size} bytes: the answer is {length or 'some'} bytes of "
                f"{response.headers.get_content_type()}.",
                "Log in to the network if it asks for that, or give another --base-url.",
            )
        if shutil.disk_usage(partial.parent).free < row.size - there:
            raise write_error(partial, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), row.size - there)
        try:
            with partial.open("ab" if done else "wb") as file:
                for block in _blocks(response):
                    file.write(block)
                    done += len(block)
                    report(done, row.size)
                    if done > row.size:
                        break
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(partial, error, row.size - done) from error
    if done < row.size:
        raise CheckpointError(
            f"{url} broke off after {format_size(done)} of {format_size(row.size)}.",
            "Repeat the command to continue the download.",
        )


def _request(url: str, row: PublishedWeights, start: int) -> HTTPResponse:
    """Request a file from a byte on."""
    headers = {"User-Agent": "mlesam_ros", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        raise CheckpointError(
            f"{url} answers {error.code} {error.reason}.",
            f"Give the address of a folder with {row.file} as --base-url.",
        ) from error
    except (OSError, HTTPException, UnicodeError) as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"{urlsplit(url).netloc} cannot be reached: {getattr(reason, 'strerror', None) or reason}.",
            f"Connect to a network, give a mirror as --base-url, or copy {url} from another machine to {row.path}.",
        ) from error
    return response


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body until its end, or until the connection breaks."""
    with suppress(OSError, HTTPException):
        while block := response.read(_BLOCK_BYTES):
            yield block


def _size(path: Path) -> int | None:
    """Size of a file in bytes; None if there is no such file.

    Raises:
        CheckpointError: the path cannot be examined.
    """
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read: {error.strerror}.",
        f"Grant read permission, or give another file or, in {FOLDER_VARIABLE}, another folder.",
    )


def _sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
