"""From the network's outputs to detections, and from detections to COCO's mean average precision."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.pipeline.batch import Batch
from dataecho.training.contracts import Arrays, Evaluator
from dataecho_tasks.coco_ssd.boxes import Boxes, DefaultBoxes, areas, overlaps

_OUTPUT = threading.Lock()


def surviving(boxes: Boxes, labels: NDArray[np.int64], *, threshold: float) -> NDArray[np.bool_]:
    """Greedy non-maximum suppression of boxes [n, 4], the best first: one that overlaps a better one of its class,
    which survives, by more than ``threshold`` does not."""
    suppresses = np.triu(overlaps(boxes, boxes) > threshold, k=1) & (labels[:, None] == labels)
    kept = np.ones(len(boxes), dtype=np.bool_)
    while True:
        # What survives depends on better boxes only: in every round at least one more is decided for good.
        found = ~suppresses[kept].any(axis=0)
        if np.array_equal(found, kept):
            return kept
        kept = found


def detected(
    row: Mapping[str, NDArray[Any]],
    defaults: DefaultBoxes,
    *,
    num_classes: int,
    max_overlap: float = 0.45,
    max_detections: int = 200,
) -> tuple[NDArray[np.int64], Boxes, NDArray[Any]]:
    """Classes (from 1 on), corners and scores of what a model has found in a row, the best first: of its pairs of
    default box and class the ``max_detections`` best that survive, see :func:`surviving`.

    ``row``: ``scores`` [k], falling; ``pairs`` [k], the number of the default box times ``num_classes``, plus the class
    (from 0); ``offsets`` [k, 4] of these boxes.
    """
    numbers, labels = np.divmod(np.rint(row["pairs"]).astype(np.int64), num_classes)
    boxes = np.clip(defaults.decode(row["offsets"], numbers), 0, 1)
    kept = surviving(boxes, labels, threshold=max_overlap).nonzero()[0][:max_detections]
    return labels[kept] + 1, boxes[kept], row["scores"][kept]


class MeanAveragePrecision(Evaluator):
    """``eval_loss``; ``mAP``, COCO's measure: the mean over classes and over the least overlaps 0.5, 0.55, ..., 0.95;
    ``mAP_50`` and ``mAP_75``, for one of them.

    Takes of every row, as the model puts them out, ``loss``, what :func:`detected` takes, and ``boxes`` [m, 4],
    ``labels`` [m] and ``crowd`` [m] of its objects.
    """

    def __init__(self, defaults: DefaultBoxes, *, num_classes: int) -> None:
        self._defaults, self._num_classes = defaults, num_classes
        self._num_images = 0
        self._loss = self._weight = 0.0
        # Rows of image, class, four corners, and score or whether it is a crowd.
        self._detections: list[NDArray[np.float64]] = []
        self._objects: list[NDArray[np.float64]] = []

    def update(self, outputs: Mapping[str, NDArray[Any]], batch: Batch) -> None:
        self._loss += float(np.dot(outputs["loss"].astype(np.float64), batch.weights))
        self._weight += float(batch.weights.sum())
        for row in np.flatnonzero(batch.weights > 0).tolist():
            own = {name: values[row] for name, values in outputs.items()}
            found = detected(own, self._defaults, num_classes=self._num_classes)
            self._detections.append(self._numbered(*found))
            labels = own["labels"].astype(np.int64)
            real = labels > 0
            self._objects.append(self._numbered(labels[real], own["boxes"][real], own["crowd"][real]))
            self._num_images += 1

    def compute(self) -> dict[str, float]:
        precision = average_precisions(
            _joined(self._objects),
            _joined(self._detections),
            num_images=self._num_images,
            num_classes=self._num_classes,
        )
        return {"eval_loss": self._loss / self._weight, **precision}

    def seen(self) -> Arrays:
        return {
            "sums": np.array([self._loss, self._weight, self._num_images]),
            "detections": _joined(self._detections),
            "objects": _joined(self._objects),
        }

    def add(self, seen: Arrays) -> None:
        for mine, theirs in ((self._detections, seen["detections"]), (self._objects, seen["objects"])):
            shifted = theirs.copy()
            shifted[:, 0] += self._num_images
            mine.append(shifted)
        loss, weight, num_images = seen["sums"].tolist()
        self._loss += loss
        self._weight += weight
        self._num_images += int(num_images)

    def _numbered(self, labels: NDArray[Any], boxes: Boxes, last: NDArray[Any]) -> NDArray[np.float64]:
        image = np.full(len(labels), self._num_images)
        return np.column_stack([image, labels, boxes, last]).astype(np.float64)


def average_precisions(
    objects: NDArray[np.float64], detections: NDArray[np.float64], *, num_images: int, num_classes: int
) -> dict[str, float]:
    """COCO's ``mAP``, ``mAP_50`` and ``mAP_75`` of rows (image, class, four corners, score or whether it is a crowd); 0
    where there is no object."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    facts = {
        "images": [{"id": number} for number in range(num_images)],
        "categories": [{"id": label} for label in range(1, num_classes + 1)],
    }
    given, found = COCO(), COCO()
    given.dataset = {**facts, "annotations": [{**one, "iscrowd": int(row[6])} for one, row in _listed(objects)]}
    found.dataset = {
        **facts,
        "annotations": [{**one, "iscrowd": 0, "score": row[6]} for one, row in _listed(detections)],
    }
    # It tells its progress by `print`, which would go through the live line of a run.
    with _OUTPUT, contextlib.redirect_stdout(io.StringIO()):
        given.createIndex()
        found.createIndex()
        measure = COCOeval(given, found, "bbox")
        # Objects of all sizes only: shares of an image are no pixels.
        measure.params.areaRng, measure.params.areaRngLbl = measure.params.areaRng[:1], measure.params.areaRngLbl[:1]
        measure.evaluate()
        measure.accumulate()
    # [overlap, recall, class, size, number of detections], -1 for classes without an object
    precision = measure.eval["precision"][:, :, :, 0, -1]
    chosen = {"mAP": slice(None), "mAP_50": slice(0, 1), "mAP_75": slice(5, 6)}
    return {name: _mean(precision[which]) for name, which in chosen.items()}


def _listed(rows: NDArray[np.float64]) -> list[tuple[dict[str, Any], list[float]]]:
    """As COCO's annotations, numbered from 1 on: its measure takes 0 for none."""
    sizes = areas(rows[:, 2:6]).tolist()
    return [
        (
            {
                "id": number,
                "image_id": int(row[0]),
                "category_id": int(row[1]),
                "bbox": [row[2], row[3], row[4] - row[2], row[5] - row[3]],
                "area": size,
            },
            row,
        )
        for number, (row, size) in enumerate(zip(rows.tolist(), sizes, strict=True), start=1)
    ]


def _mean(precision: NDArray[np.float64]) -> float:
    real = precision[precision > -1]
    return float(real.mean()) if real.size else 0.0


def _joined(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, 7)), *parts])
