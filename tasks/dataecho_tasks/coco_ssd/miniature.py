"""Digits on photographs in COCO's format, written once: the data where no other are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.posix import usable_cores
from dataecho.report.progress_bar import Advance
from dataecho_tasks.coco_ssd.drawing import DigitScenes
from dataecho_tasks.coco_ssd.source import PARTS, CocoSource
from dataecho_tasks.shared.written_once import cache_folder, written_once

WIDTH, HEIGHT = 128, 96

_VERSION = 1  # of what is drawn: another number, another folder
_QUALITY = 90
_PIECE = 64  # scenes that a thread draws before it tells of them


def miniature(*, split: str, num_examples: int, seed: int = 0, cache_dir: str | None = None) -> Source:
    """The files of :func:`write_miniature`, in a folder of their own in ``coco`` below ``cache_dir``
    (``~/.cache/dataecho`` or where ``XDG_CACHE_HOME`` says). Written by whoever asks first; another
    process that asks meanwhile waits."""
    require(split in PARTS, "split", split, allowed=", ".join(PARTS), cure="train is the larger part.")

    def write(folder: Path, tell: Advance) -> None:
        write_miniature(folder, split=split, num_examples=num_examples, seed=seed, tell=tell)

    folder = written_once(
        f"{split}-{num_examples}-s{seed}",
        write,
        root=cache_folder(cache_dir) / "coco",
        version=_VERSION,
        num_examples=num_examples,
        title=f"writing {split} scenes",
    )
    name, _ = PARTS[split]
    return CocoSource(f"{folder}/annotations/instances_{name}.json", f"{folder}/{name}", split=split)


def write_miniature(
    folder: Path, *, split: str, num_examples: int, seed: int = 0, tell: Advance = lambda written: None
) -> None:
    """Write ``num_examples`` scenes of ``split`` as COCO has them: ``<part>2017/<number>.jpg`` and
    ``annotations/instances_<part>2017.json``. The same arguments write the same bytes, with the same version of
    OpenCV."""
    require(num_examples >= 1, "num_examples", num_examples, allowed="whole numbers >= 1", cure="4096 is usual.")
    name, _ = PARTS[split]
    drawn = DigitScenes(split=split, width=WIDTH, height=HEIGHT, seed=seed)
    drawn.draw(0)  # the material is loaded before the threads ask for it
    (folder / name).mkdir(parents=True)
    (folder / "annotations").mkdir()

    def write_piece(start: int) -> list[list[dict[str, Any]]]:
        numbers = range(start, min(start + _PIECE, num_examples))
        found = [_write_scene(folder / name, drawn, number) for number in numbers]
        tell(len(numbers))
        return found

    with ThreadPoolExecutor(usable_cores()) as pool:
        pieces = list(pool.map(write_piece, range(0, num_examples, _PIECE)))
    objects = [one for piece in pieces for scene in piece for one in scene]
    content = {
        "info": {"description": "digits on photographs, both of scikit-learn", "version": str(_VERSION)},
        "licenses": [],
        "images": [
            {"id": number, "file_name": _file_name(number), "width": WIDTH, "height": HEIGHT}
            for number in range(num_examples)
        ],
        "annotations": [{**one, "id": number} for number, one in enumerate(objects, start=1)],
        "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
    }
    path = folder / "annotations" / f"instances_{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_scene(folder: Path, drawn: DigitScenes, number: int) -> list[dict[str, Any]]:
    image, boxes, labels = drawn.draw(number)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    (folder / _file_name(number)).write_bytes(data.tobytes())
    return list(_objects(number, boxes, labels))


def _objects(number: int, boxes: list[tuple[int, int, int, int]], labels: list[int]) -> Iterator[dict[str, Any]]:
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        width, height = right - left, bottom - top
        yield {
            "image_id": number,
            "category_id": label + 1,
            "iscrowd": 0,
            "bbox": [left, top, width, height],
            "area": width * height,
            "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        }


def _file_name(number: int) -> str:
    return f"{number:012d}.jpg"
