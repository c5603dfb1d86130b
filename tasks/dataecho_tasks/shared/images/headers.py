"""The size of an image, from its first bytes, and whether its last ones are there."""

from __future__ import annotations

import io
import struct

from PIL import Image

_JPEG, _PNG, _RIFF, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments with the size
_EXIF = (b"Exif\0\0", b"eXIf", b"EXIF")  # in JPEG, PNG and WebP files
_ORIENTATION = 0x0112
_BMP_RUNS = frozenset({1, 2})  # runs of 8 and of 4 bits: the header says how long they are
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG, PNG, WebP or BMP file, as it is stored: an EXIF entry does not turn it. Raises
    ``ValueError`` for other files, and for one that is cut short."""
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    if data.startswith(_PNG):
        return _png_size(data)
    if data.startswith(_RIFF) and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith(_BMP):
        return _bmp_size(data)
    raise ValueError(f"no JPEG, PNG, WebP or BMP file: it begins with {data[:8]!r}")


def orientation(data: bytes) -> int:
    """How the EXIF entry of a file turns its picture: 1 (not at all) to 8; 5 and above exchange height and width."""
    if not any(mark in data for mark in _EXIF):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged entry, of which Pillow says so in many ways, turns nothing: as OpenCV has it
        return 1
    return found if found in range(1, 9) else 1


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size: tuple[int, int] | None = None
    position = 2
    try:
        while True:
            start, marker = struct.unpack_from(">BB", data, position)
            if start != 0xFF:
                raise ValueError(f"a damaged JPEG file: no marker at byte {position}")
            if marker == 0xFF:  # padding
                position += 1
                continue
            if marker in _BARE:
                position += 2
                continue
            (length,) = struct.unpack_from(">H", data, position + 2)
            if marker in _FRAMES:
                size = struct.unpack_from(">HH", data, position + 5)
            position += 2 + max(length, 2)
            if marker == _START_OF_SCAN:
                break
    except struct.error:
        raise ValueError(f"a JPEG file that is cut short: its header does not end in {len(data)} bytes") from None
    if size is None:
        raise ValueError("a damaged JPEG file: its header has no size")
    # Pixels cannot contain the end marker, but a preview in the header may end with one.
    if data.rfind(_END_OF_IMAGE) < position:
        raise ValueError(f"a JPEG file that is cut short: no end marker in {len(data)} bytes")
    return size


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise ValueError("a damaged PNG file: its header has no size")
    if data.rfind(b"IEND") < 24:
        raise ValueError(f"a PNG file that is cut short: no end mark in {len(data)} bytes")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _webp_size(data: bytes) -> tuple[int, int]:
    try:
        (length,) = struct.unpack_from("<I", data, 4)
        if len(data) < 8 + length:
            raise ValueError(f"a WebP file that is cut short: {len(data)} bytes of {8 + length}")
        kind = data[12:16]
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        elif kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        else:
            raise ValueError(f"a damaged WebP file: its first part is {kind!r}")
    except struct.error:
        raise ValueError(f"a WebP file that is cut short: its header does not end in {len(data)} bytes") from None
    return height, width


def _bmp_size(data: bytes) -> tuple[int, int]:
    try:
        start, header = struct.unpack_from("<II", data, 10)
        if header == 12:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            stored = _bmp_bytes(width, height, bits)
        else:
            width, height, _, bits, compression, length = struct.unpack_from("<iiHHII", data, 18)
            stored = length if compression in _BMP_RUNS else _bmp_bytes(width, abs(height), bits)
    except struct.error:
        raise ValueError(f"a BMP file that is cut short: its header does not end in {len(data)} bytes") from None
    if width <= 0 or height == 0:
        raise ValueError(f"a damaged BMP file: its size is {width} x {height}")
    if len(data) < start + stored:
        raise ValueError(f"a BMP file that is cut short: {len(data)} bytes of {start + stored}")
    return abs(height), width  # a negative height: the first row is the upper one


def _bmp_bytes(width: int, height: int, bits: int) -> int:
    """Rows end on whole words of 32 bits."""
    return (width * bits + 31) // 32 * 4 * height
