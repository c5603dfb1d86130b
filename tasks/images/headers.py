"""The size of an image, from its first bytes, and whether its last ones are there."""

from __future__ import annotations

import struct

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments with the size
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG or PNG file. Raises ``ValueError`` for other files, and for one that is cut short."""
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    if data.startswith(_PNG):
        return _png_size(data)
    raise ValueError(f"neither a JPEG nor a PNG file: it begins with {data[:8]!r}")


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
