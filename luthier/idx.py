"""IDX files, the format of MNIST and its kin: read, checked against a checksum, fetched whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from luthier.errors import DataError
from luthier.files import write_whole

Pair = tuple[np.ndarray, np.ndarray]  # images (n, height, width) uint8 and labels (n,)


def read_idx(path: str | Path, *, sha256: str | None = None) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, the format of MNIST.

    Args:
        path: The file; it is decompressed if its name ends in ``.gz``.
        sha256: Checksum that the decompressed bytes must have, in hexadecimal.

    Returns:
        uint8, of the file's own shape.

    Raises:
        DataError: If the file cannot be read, is not of this format, is longer or shorter than its own header says,
            or has another checksum.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the file cannot be read ({error.strerror})", where=str(path), remedy="Check its name and its permissions."
        ) from error
    return _parse(_decompress(raw, str(path)) if path.suffix == ".gz" else raw, str(path), sha256)


def _decompress(raw: bytes, where: str) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{len(raw)} bytes that are not a whole gzip file ({error})", where=where, remedy="Fetch the file again."
        ) from error


def _parse(raw: bytes, where: str, sha256: str | None) -> np.ndarray:
    """Magic number (two zeros, the type, the number of axes), big-endian lengths of the axes, then the bytes."""
    again = "Fetch the file again, from its official source."
    if sha256 is not None and (found := hashlib.sha256(raw).hexdigest()) != sha256:
        raise DataError(
            f"SHA-256 {found} of the decompressed bytes is not the official {sha256}",
            where=where,
            remedy=f"This is another data set or a damaged file. {again}",
        )
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or raw[3] == 0:
        raise DataError(
            f"magic number {raw[:4].hex()!r} is not that of an IDX file of bytes", where=where, remedy=again
        )
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise DataError(f"the file ends after {len(raw)} bytes, within its header", where=where, remedy=again)
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    if len(raw) - start != math.prod(shape):
        raise DataError(
            f"the header promises {shape} = {math.prod(shape)} bytes and {len(raw) - start} follow",
            where=where,
            remedy=again,
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_pair(folder: Path, part: str, classes: tuple[str, ...], checksums: Mapping[str, str] | None = None) -> Pair:
    """Images and labels of one part, ``"train"`` or ``"t10k"``, of a set in MNIST's format.

    Args:
        folder: Holds the files, each with or without ``.gz``.
        part: Beginning of the files' names.
        classes: Labels must be below their number.
        checksums: SHA-256 of the decompressed file for each name (with ``.gz``).

    Returns:
        uint8 images (n, height, width) and labels (n,).

    Raises:
        DataError: If a file is missing or unreadable, or if the two do not belong together.
    """
    checksums = checksums or {}
    names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
    files = [_existing(folder, name) for name in names]
    images, labels = (read_idx(file, sha256=checksums.get(name)) for file, name in zip(files, names, strict=True))
    for array, axes, file in zip((images, labels), (3, 1), files, strict=True):
        if array.ndim != axes:
            raise DataError(f"shape {array.shape} has not {axes} axes", where=str(file), remedy="Check its name.")
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(
            f"{len(images)} images and {len(labels)} labels in {files[1].name}",
            where=str(files[0]),
            remedy="Take both files from the same data set.",
        )
    if labels.max() >= len(classes):
        raise DataError(
            f"label {labels.max()} is not below {len(classes)}", where=str(files[1]), remedy="Check the data set."
        )
    return images, labels


def _existing(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / name.removesuffix(".gz")):
        if file.is_file():
            return file
    raise DataError(
        f"neither {name} nor {name.removesuffix('.gz')} is there",
        where=str(folder),
        remedy="Put the four official files into one folder, under their own names.",
    )


def download(url: str, folder: Path, checksums: Mapping[str, str], remedy: str) -> None:
    """Fetch the files that ``folder`` lacks; each appears there whole and verified, or not at all.

    Args:
        url: The address of the remote folder.
        folder: Folder for the files; created if need be.
        checksums: SHA-256 of the decompressed file for each name (with ``.gz``).
        remedy: Advice to the user if the download fails.

    Raises:
        DataError: If the server, the network, a checksum or the disk fails.
    """
    from rich.console import Console  # here, because most calls download nothing
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name, sha256 in checksums.items():
            if (folder / name).is_file():
                continue
            address = f"{url.rstrip('/')}/{name}"
            bar = progress.add_task(name, total=None)

            def show(done: int, size: int | None, bar=bar) -> None:
                progress.update(bar, completed=done, total=size)

            raw = _fetch(address, show, remedy)
            _parse(_decompress(raw, address), address, sha256)
            _write(folder / name, raw)


def _fetch(address: str, progress: Callable[[int, int | None], None], remedy: str) -> bytes:
    raw = bytearray()
    try:
        with urllib.request.urlopen(address, timeout=30) as response:
            length = response.headers["Content-Length"]
            size = None if length is None else int(length)
            while chunk := response.read(1 << 18):
                raw += chunk
                progress(len(raw), size)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not an address at all
        raise DataError(f"the download failed ({error})", where=address, remedy=remedy) from error
    if size is not None and len(raw) != size:
        raise DataError(f"the download broke off after {len(raw)} of {size} bytes", where=address, remedy=remedy)
    return bytes(raw)


def _write(file: Path, raw: bytes) -> None:
    """Write the whole file or none of it, also when two processes download at once."""
    try:
        write_whole(file, raw, make_folder=True)
    except OSError as error:
        raise DataError(
            f"{len(raw)} bytes cannot be written ({error.strerror})",
            where=str(file),
            remedy="Make room there, or set XDG_CACHE_HOME to a folder that can be written.",
        ) from error
