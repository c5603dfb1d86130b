"""The formulas of SSD (Liu et al., ECCV 2016) on cases small enough to be computed by hand."""

import cv2
import numpy as np
import pytest
import torch

from dataecho.build import build
from dataecho.errors import SettingError
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.plan.keys import KeyStream
from dataecho_tasks.coco_ssd.boxes import DefaultBoxes, areas, centres, corners, overlaps
from dataecho_tasks.coco_ssd.detections import MeanAveragePrecision, surviving
from dataecho_tasks.coco_ssd.matching import matched, targets
from dataecho_tasks.coco_ssd.torch_model import SsdResnet, detection_losses
from dataecho_tasks.coco_ssd.windows import crop, crop_in_one_draw, cut, expand
from tests.support import config

OFFICIAL = ("task=coco_ssd", "task/coco_ssd_data=official", "task.train.folder=/data/coco")


@pytest.fixture(scope="module")
def ssd300():
    node = config(*OFFICIAL)["task"]["default_boxes"]
    return build(node, DefaultBoxes, key="task.default_boxes")


def boxes(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def four():
    """One default box in the middle of each quarter of an image of 100 pixels: 40 x 40, and its larger square."""
    return DefaultBoxes(image_size=100, maps=[2], steps=[50], sizes=[40, 40], aspect_ratios=[[]])


# ---- default boxes


def test_ssd300_has_8732_default_boxes_of_the_published_shapes(ssd300):
    assert ssd300.per_place == (4, 6, 6, 6, 4, 4)
    assert ssd300.centred.shape == ssd300.corners.shape == (8732, 4) and ssd300.centred.dtype == np.float32
    # The first place of the 38 x 38 map, in pixels: 21, the mean of 21 and 45, 2 : 1, 1 : 2; 4 pixels from the corner.
    root = 2**0.5
    expected = [[4, 4, 21, 21], [4, 4, 945**0.5, 945**0.5], [4, 4, 21 * root, 21 / root], [4, 4, 21 / root, 21 * root]]
    np.testing.assert_allclose(ssd300.centred[:4] * 300, expected, rtol=1e-5)
    # By map, row, column: the second place is 8 pixels to the right, the second row 38 places later.
    np.testing.assert_allclose(ssd300.centred[4, :2] * 300, [12, 4], rtol=1e-5)
    np.testing.assert_allclose(ssd300.centred[4 * 38, :2] * 300, [4, 12], rtol=1e-5)
    start = 38 * 38 * 4
    third = 3**0.5
    expected = [[8, 8, 45 * third, 45 / third], [8, 8, 45 / third, 45 * third]]
    np.testing.assert_allclose(ssd300.centred[start + 4 : start + 6] * 300, expected, rtol=1e-5)
    np.testing.assert_allclose(ssd300.centred[-4] * 300, [150, 150, 261, 261], rtol=1e-5)
    np.testing.assert_allclose(ssd300.centred[-3] * 300, [150, 150, (261 * 315) ** 0.5, (261 * 315) ** 0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": []}, r"^maps=\[\] cannot be used"),
        ({"steps": [8]}, r"^steps=\[8\] cannot be used. Allowed: 2 values above 0, for 2 maps"),
        ({"sizes": [10, 20]}, r"^sizes=\[10, 20\] cannot be used. Allowed: 3 values"),
        ({"sizes": [10, 0, 20]}, r"^sizes=\[10, 0, 20\] cannot be used"),
        ({"aspect_ratios": [[2]]}, r"^aspect_ratios=\[\[2\]\] cannot be used. Allowed: 2 values"),
        ({"aspect_ratios": [[2], [-1]]}, r"^aspect_ratios=\[\[2\], \[-1\]\] cannot be used"),
    ],
)
def test_default_boxes_that_do_not_fit_together_are_refused(change, message):
    facts = {"maps": [4, 2], "steps": [8, 16], "sizes": [10, 20, 30], "aspect_ratios": [[2], [2]]}
    with pytest.raises(SettingError, match=message):
        DefaultBoxes(image_size=32, **{**facts, **change})


def test_overlaps_are_intersection_by_union():
    first = boxes([0, 0, 2, 2], [0, 0, 1, 1])
    second = boxes([1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [1, 0, 2, 2])
    expected = [[1 / 7, 1, 0, 0.5], [0, 0.25, 0, 0]]
    np.testing.assert_allclose(overlaps(first, second), expected, rtol=1e-6)
    np.testing.assert_array_equal(areas(first), [4, 1])
    np.testing.assert_array_equal(overlaps(boxes([1, 1, 1, 1]), boxes([1, 1, 1, 1])), [[0]])


def test_offsets_are_those_of_the_paper_by_the_variances():
    defaults = four()
    found = defaults.encode(np.repeat(boxes([0.05, 0.1, 0.25, 0.3]), 8, axis=0))
    # The first: centre 0.25 and side 0.4; the box has its centre at (0.15, 0.2) and a side of 0.2.
    np.testing.assert_allclose(
        found[0], [-0.1 / 0.4 / 0.1, -0.05 / 0.4 / 0.1, np.log(0.5) / 0.2, np.log(0.5) / 0.2], rtol=1e-5
    )


def test_decoding_is_the_inverse_of_encoding(ssd300):
    draws = np.random.default_rng(0)
    middle, size = draws.uniform(size=(8732, 2)), draws.uniform(0.01, 1, size=(8732, 2))
    given = corners(np.concatenate([middle, size], axis=1).astype(np.float32))
    np.testing.assert_allclose(ssd300.decode(ssd300.encode(given), np.arange(8732)), given, atol=2e-5)
    np.testing.assert_allclose(corners(centres(given)), given, atol=1e-6)
    some = np.array([[5, 8000], [17, 3]])
    np.testing.assert_allclose(ssd300.decode(ssd300.encode(given)[some], some), given[some], atol=2e-5)


def test_an_absurd_size_stays_a_number():
    assert np.isfinite(four().decode(np.full((1, 4), 1e6, dtype=np.float32), np.array([0]))).all()


# ---- matching


def test_more_than_half_of_overlap_matches_and_every_object_has_a_default_box():
    defaults = boxes([0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 20], [50, 50, 60, 60])
    # With the first object: 1, 0.83, 0.5, 0. Half is not more than half. The second touches nothing by half.
    objects = boxes([0, 0, 10, 10], [55, 55, 75, 75])
    assert matched(objects, defaults).tolist() == [0, 0, -1, 1]
    assert matched(objects, defaults, threshold=0.4).tolist() == [0, 0, 0, 1]
    assert matched(objects[:0], defaults).tolist() == [-1] * 4


def test_two_objects_that_want_the_same_default_box_get_one_each():
    defaults = boxes([0, 0, 10, 10], [0, 0, 10, 30], [90, 90, 99, 99])
    objects = boxes([0, 0, 10, 9], [0, 0, 10, 10])
    # Both overlap the first most: 0.9 and 1. The second object takes it, the first gets the next best.
    assert matched(objects, defaults).tolist() == [1, 0, -1]
    # Three the same: even where nothing is left that overlaps, each gets one.
    assert sorted(matched(np.repeat(objects[:1], 3, axis=0), defaults).tolist()) == [0, 1, 2]
    # More objects than default boxes: the rest gets none.
    assert sorted(matched(np.repeat(objects[:1], 5, axis=0), defaults).tolist()) == [0, 1, 2]


def test_a_forced_match_beats_a_larger_overlap_with_another_object():
    defaults = boxes([0, 0, 10, 10], [0, 0, 10, 11])
    objects = boxes([0, 0, 10, 10], [0, 0, 10, 16])  # the second overlaps 0.62 and 0.69; the first 1 and 0.91
    assert matched(objects, defaults).tolist() == [0, 1]


def test_targets_are_class_and_offsets_of_the_matched_and_zero_elsewhere():
    defaults = four()
    offsets, classes = targets(boxes([0.05, 0.1, 0.45, 0.4]), np.array([7]), defaults)
    # The first place has two boxes of 0.4 x 0.4 around (0.25, 0.25): overlap 0.12 / 0.16.
    assert classes.tolist() == [7, 7, 0, 0, 0, 0, 0, 0] and classes.dtype == np.int64
    np.testing.assert_allclose(offsets[0], [0, 0, 0, np.log(0.75) / 0.2], atol=1e-5)
    assert not offsets[2:].any() and offsets.dtype == np.float32
    offsets, classes = targets(boxes(), np.zeros(0, dtype=np.int64), defaults)
    assert not offsets.any() and not classes.any() and offsets.shape == (8, 4)


# ---- windows


def example(height=60, width=100, objects=((10, 10, 30, 50),), labels=(3,)):
    image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    window = np.array([0, 0, width, height], dtype=np.float32)
    padded = boxes(*objects, *[[0] * 4] * 2)
    numbers = np.array([*labels, 0, 0], dtype=np.int64)
    return {"image": image, "window": window, "boxes": padded, "labels": numbers, "crowd": numbers < 0}


def keys(number, *, seed=0):
    return KeyStream(seed, "test.coco").keys(np.arange(number))


def test_the_window_of_an_expansion_holds_the_image_and_grows_at_most_so_much():
    given = example()
    found = np.array([expand(given, key, largest=3.0)["window"] for key in keys(400)])
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    unchanged = (found == given["window"]).all(axis=1)
    assert 150 < unchanged.sum() < 250
    np.testing.assert_allclose(width / 100, height / 60, rtol=1e-4)
    assert width.max() <= 300.01 and width[~unchanged].min() > 100 and np.ptp(width[~unchanged]) > 150
    assert (found[:, :2] <= 0).all() and (found[:, 2] >= 100).all() and (found[:, 3] >= 60).all()


@pytest.mark.parametrize("rule", [crop, crop_in_one_draw])
def test_a_crop_keeps_its_promises(rule):
    given = example(objects=[[10, 10, 30, 50], [60, 20, 90, 30]], labels=[3, 5])
    least, kept_by_number = [], {0: 0, 1: 0, 2: 0}
    for key in keys(600):
        found = rule(given, key, least_side=0.3)
        left, top, right, bottom = found["window"].tolist()
        assert left >= -1e-3 and top >= -1e-3 and right <= 100.01 and bottom <= 60.01
        share = (right - left) * (bottom - top) / 6000
        assert share >= 0.3**2 - 1e-4
        assert 0.49 < (right - left) / 100 / ((bottom - top) / 60) < 2.01
        middle = (given["boxes"][:2, :2] + given["boxes"][:2, 2:]) / 2
        inside = ((middle > [left, top]) & (middle < [right, bottom])).all(axis=1)
        assert inside.any() or rule is crop  # the authors train on nothing but background, too
        assert found["labels"].tolist() == [3 * inside[0], 5 * inside[1], 0, 0]
        kept_by_number[int(inside.sum())] += 1
        least.append(overlaps(found["window"][None], given["boxes"][:2]).max())
    assert kept_by_number[1] > 100 and kept_by_number[2] > 100
    assert min(least) < 0.1 < max(least)
    assert given["labels"].tolist() == [3, 5, 0, 0]


def authors_window(draws, objects):
    """A window as the authors' code samples it, line by line (caffe, branch ssd: util/sampler.cpp, with the batch
    samplers of ssd_coco.py): everything in shares of the image."""
    candidates = [np.array([0.0, 0.0, 1.0, 1.0])]
    for least in (0.1, 0.3, 0.5, 0.7, 0.9, None):
        for _ in range(50):
            scale = draws.uniform(0.3, 1.0)
            aspect = draws.uniform(max(0.5, scale**2), min(2.0, 1 / scale**2))
            width, height = scale * aspect**0.5, scale / aspect**0.5
            left, top = draws.uniform(0, 1 - width), draws.uniform(0, 1 - height)
            window = np.array([left, top, left + width, top + height])
            if least is None or overlaps(np.float32([window]), objects).max() >= least:
                candidates.append(window)
                break
    return candidates[draws.integers(len(candidates))]


OBJECTS = {
    "one small": [[0.1, 0.6, 0.2, 0.75]],
    "one of half the sides": [[0.2, 0.3, 0.7, 0.8]],
    "one as large as the image": [[0.0, 0.0, 1.0, 1.0]],
    "four": [[0.0, 0.0, 0.3, 0.9], [0.5, 0.5, 0.6, 0.6], [0.4, 0.1, 0.9, 0.4], [0.65, 0.7, 0.95, 0.98]],
}


@pytest.mark.parametrize("name", OBJECTS)
def test_crops_are_as_frequent_and_as_large_as_the_authors(name):
    objects = np.float32(OBJECTS[name])
    given = example(60, 100, objects=objects * [100, 60, 100, 60], labels=[1] * len(objects))
    draws = np.random.default_rng(1)
    expected = np.array([authors_window(draws, objects) for _ in range(600)])
    found = np.array([crop(given, key, least_side=0.3)["window"] for key in keys(2400)]) / [100, 60, 100, 60]
    for measure in (
        lambda windows: (windows == [0, 0, 1, 1]).all(axis=1),  # nothing was cropped
        lambda windows: (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1]),
        lambda windows: np.log((windows[:, 2] - windows[:, 0]) / (windows[:, 3] - windows[:, 1])),
        lambda windows: windows[:, 0],
        lambda windows: windows[:, 1],
    ):
        theirs, ours = (measure(windows).astype(float) for windows in (expected, found))
        doubt = (theirs.var() / len(theirs) + ours.var() / len(ours)) ** 0.5
        assert abs(ours.mean() - theirs.mean()) <= 4 * doubt + 1e-6, (theirs.mean(), ours.mean())


@pytest.mark.parametrize("crop", [crop, crop_in_one_draw])
def test_without_an_object_nothing_is_cropped(crop):
    given = example(objects=[], labels=[])
    assert all(crop(given, key, least_side=0.3) is given for key in keys(50))


def test_a_cut_gives_pixels_and_boxes_of_the_window():
    given = {**example(), "window": np.array([10, 0, 50, 60], dtype=np.float32)}
    found = cut(given, size=20)
    assert found.keys() == {"image", "boxes", "labels", "crowd"} and found["image"].shape == (20, 20, 3)
    np.testing.assert_array_equal(found["image"], cv2.resize(given["image"][:, 10:50], (20, 20)))
    np.testing.assert_allclose(found["boxes"][0], [0, 10 / 60, 0.5, 50 / 60], rtol=1e-6)
    assert not found["boxes"][1:].any()
    cut_off = cut({**given, "window": np.array([20, 20, 60, 40], dtype=np.float32)}, size=20)
    np.testing.assert_allclose(cut_off["boxes"][0], [0, 0, 0.25, 1])


def test_outside_of_the_image_is_one_colour():
    image = np.full((10, 20, 3), 9, dtype=np.uint8)
    given = {**example(10, 20, objects=[[0, 0, 20, 10]]), "image": image}
    found = cut({**given, "window": np.array([-20, -10, 20, 10], dtype=np.float32)}, size=16)
    assert (found["image"][8:, 8:] == 9).all()
    assert (found["image"][:8] == (124, 116, 104)).all() and (found["image"][:, :8] == (124, 116, 104)).all()
    np.testing.assert_allclose(found["boxes"][0], [0.5, 0.5, 1, 1])
    nothing = cut({**given, "window": np.array([30, 0, 50, 10], dtype=np.float32)}, size=16)
    assert (nothing["image"] == (124, 116, 104)).all()


# ---- the loss


def test_the_three_hardest_negatives_of_every_positive_count():
    # One row, eight default boxes, two classes and the background; the logits make the entropies plain numbers.
    entropies = torch.tensor([[1.0, 5.0, 4.0, 3.0, 2.0, 0.5, 0.25, 0.1]], dtype=torch.float64)
    classes = torch.tensor([[2, 0, 0, 0, 0, 0, 0, 0]])
    # With logits log p and log (1 - p) the entropy of a class is -log p.
    logits = torch.full((1, 8, 3), -1e9, dtype=torch.float64)
    right = torch.exp(-entropies)
    for number in range(8):
        own = int(classes[0, number])
        logits[0, number, own] = right[0, number].log()
        logits[0, number, (own + 1) % 3] = (1 - right[0, number]).log()
    offsets = torch.zeros(1, 8, 4, dtype=torch.float64)
    true = torch.zeros(1, 8, 4, dtype=torch.float64)
    true[0, 0] = torch.tensor([0.5, -2.0, 0.0, 1.0])  # smooth L1: 0.125 + 1.5 + 0 + 0.5
    true[0, 1] = 100.0  # no positive: its offsets are nobody's
    expected = 2.125 + 1.0 + (5.0 + 4.0 + 3.0)
    assert detection_losses(offsets, logits, true, classes).tolist() == pytest.approx([expected])
    classes[0, 1] = 1  # a second positive, of entropy -log 0 + ...: its own logits now say otherwise
    logits[0, 1] = torch.tensor([-1e9, 0.0, -1e9])
    true[0, 1] = 0
    expected = (2.125 + 1.0 + 0.0 + (4.0 + 3.0 + 2.0 + 0.5 + 0.25 + 0.1)) / 2  # six of six negatives
    assert detection_losses(offsets, logits, true, classes).tolist() == pytest.approx([expected])


def test_a_row_without_an_object_has_no_loss_and_changes_no_other():
    draws = torch.Generator().manual_seed(0)
    offsets, true = torch.randn(2, 6, 4, generator=draws), torch.randn(2, 6, 4, generator=draws)
    logits = torch.randn(2, 6, 3, generator=draws, requires_grad=True)
    classes = torch.tensor([[0] * 6, [1, 0, 0, 2, 0, 0]])
    losses = detection_losses(offsets, logits, true, classes)
    assert losses[0] == 0 and losses[1] > 0
    alone = detection_losses(offsets[1:], logits[1:], true[1:], classes[1:])
    assert losses[1:].tolist() == pytest.approx(alone.tolist())
    losses.sum().backward()
    assert not logits.grad[0].any() and torch.isfinite(logits.grad).all()


# ---- the metric


def test_of_overlapping_boxes_of_one_class_the_best_survives():
    given = boxes([0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 5], [0, 0, 10, 4])
    one = np.zeros(6, dtype=np.int64)
    # The second and third overlap the first by 0.9 and 0.8, the fifth (0.5) too; the sixth (0.4) does not.
    assert surviving(given, one, threshold=0.45).tolist() == [True, False, False, True, False, True]
    # What does not survive suppresses nothing: the third overlaps the second, not the first, by more than 0.85.
    assert surviving(given[:3], one[:3], threshold=0.85).tolist() == [True, False, True]
    others = np.array([0, 1, 0, 0, 1, 0])
    assert surviving(given, others, threshold=0.45).tolist() == [True, True, False, True, False, True]
    assert surviving(given[:0], one[:0], threshold=0.45).tolist() == []


def greedy(given, labels, threshold):
    """One by one."""
    kept = []
    for number in range(len(given)):
        if not any(
            labels[other] == labels[number] and overlaps(given[[other]], given[[number]])[0, 0] > threshold
            for other in kept
        ):
            kept.append(number)
    return kept


def test_suppression_of_all_at_once_is_that_of_one_by_one():
    draws = np.random.default_rng(0)
    for _ in range(20):
        low = draws.uniform(0, 0.6, size=(60, 2))
        given = np.concatenate([low, low + draws.uniform(0.1, 0.4, size=(60, 2))], axis=1).astype(np.float32)
        labels = draws.integers(3, size=60)
        found = surviving(given, labels, threshold=0.3).nonzero()[0].tolist()
        assert found == greedy(given, labels, 0.3) and 3 < len(found) < 60


def row(defaults, detections, objects, *, crowd=(), loss=1.0, k=4, m=3):
    """A model's outputs: ``detections`` are (box, class from 1 on, score), ``objects`` (box, class)."""
    offsets, pairs, scores = np.full((k, 4), -100.0), np.zeros(k), np.zeros(k)  # far outside: nothing
    for number, (box, label, score) in enumerate(detections):
        # Any default box can say any box.
        offsets[number] = defaults.encode(np.repeat(boxes(box), 8, axis=0))[number]
        pairs[number], scores[number] = number * 2 + label - 1, score
    truth, labels, crowds = np.zeros((m, 4)), np.zeros(m), np.zeros(m)
    for number, (box, label) in enumerate(objects):
        truth[number], labels[number] = box, label
    crowds[list(crowd)] = 1
    return {
        "loss": loss,
        "scores": scores,
        "pairs": pairs,
        "offsets": offsets,
        "boxes": truth,
        "labels": labels,
        "crowd": crowds,
    }


def metrics(rows, *, batch_size=2):
    evaluator = MeanAveragePrecision(four(), num_classes=2)
    left = list(rows)
    with once_through(ArraySource({"row": np.arange(len(rows))}), (), batch_size=batch_size) as batches:
        for batch in batches:
            here = [left.pop(0) for _ in range(int(batch.weights.sum()))]
            here += here[:1] * (batch_size - len(here))
            evaluator.update({name: np.stack([np.float32(one[name]) for one in here]) for name in here[0]}, batch)
    return evaluator.compute()


ONE, TWO = (0.1, 0.1, 0.5, 0.5), (0.6, 0.5, 0.9, 0.9)


def test_what_is_found_exactly_is_perfect():
    rows = [row(four(), [(ONE, 1, 0.9), (TWO, 2, 0.8)], [(ONE, 1), (TWO, 2)])]
    found = metrics(rows)
    assert found == pytest.approx({"eval_loss": 1.0, "mAP": 1.0, "mAP_50": 1.0, "mAP_75": 1.0})


def test_the_mean_over_the_least_overlaps_is_the_share_of_them_that_is_reached():
    shorter = (0.1, 0.1, 0.5, 0.1 + 0.4 * 0.82)  # overlap 0.82: right at 0.5, 0.55, ..., 0.8, wrong at three
    found = metrics([row(four(), [(shorter, 1, 0.9)], [(ONE, 1)])])
    assert found["mAP"] == pytest.approx(0.7) and found["mAP_50"] == found["mAP_75"] == pytest.approx(1)
    shortest = (0.1, 0.1, 0.5, 0.1 + 0.4 * 0.62)
    found = metrics([row(four(), [(shortest, 1, 0.9)], [(ONE, 1)])])
    assert found["mAP"] == pytest.approx(0.3) and found["mAP_75"] == 0


def test_false_ones_before_the_right_one_and_missed_ones_cost():
    # The better scored is wrong: precision is 1/2 at every recall.
    found = metrics([row(four(), [(TWO, 1, 0.9), (ONE, 1, 0.8)], [(ONE, 1)])])
    assert found["mAP"] == pytest.approx(0.5)
    # One of two is found: precision is 1 up to a recall of 0.5, which are 51 of 101 points.
    found = metrics([row(four(), [(ONE, 1, 0.9)], [(ONE, 1), (TWO, 1)])])
    assert found["mAP"] == pytest.approx(51 / 101)
    # Something is found where there is nothing, in another image: scored lower it costs nothing, higher it does.
    right = row(four(), [(ONE, 1, 0.8)], [(ONE, 1)])
    assert metrics([right, row(four(), [(ONE, 1, 0.7)], [])])["mAP"] == pytest.approx(1)
    assert metrics([right, row(four(), [(ONE, 1, 0.9)], [])])["mAP"] == pytest.approx(0.5)
    # A class that is never there does not count; one that is there and never found does.
    assert metrics([row(four(), [(ONE, 1, 0.9)], [(ONE, 1), (TWO, 2)])])["mAP"] == pytest.approx(0.5)


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong():
    given = row(four(), [(TWO, 1, 0.9), (ONE, 1, 0.8)], [(ONE, 1), (TWO, 1)], crowd=[1])
    assert metrics([given])["mAP"] == pytest.approx(1)


def test_what_finds_nothing_and_data_without_objects_have_a_measure(capsys):
    assert metrics([row(four(), [], [(ONE, 1)])])["mAP"] == 0
    assert metrics([row(four(), [(ONE, 1, 0.9)], [], loss=0.5)]) == {
        "eval_loss": 0.5,
        "mAP": 0.0,
        "mAP_50": 0.0,
        "mAP_75": 0.0,
    }
    assert capsys.readouterr().out == ""  # COCO's measure would tell of its progress


# ---- the network


def full(**changes):
    node = config(*OFFICIAL)["task"]["models"]["torch"]
    return build({**node, **changes}, SsdResnet, key="task.models.torch")


def test_the_full_network_is_resnet_34_without_its_last_group_and_six_heads(ssd300):
    model = full()
    number = sum(values.numel() for values in model.parameters())
    assert f"{number:,} parameters with 80 classes" in SsdResnet.__doc__
    # 21,797,672 of ResNet-34, less 13,114,368 of its last group and 513,000 of its classifier.
    first = [*model.convolution.parameters(), *model.normalisation.parameters(), *model.blocks.parameters()]
    assert sum(values.numel() for values in first) == 8_170_304
    model.eval()
    with torch.no_grad():
        offsets, logits = model._predictions(torch.zeros(2, 300, 300, 3, dtype=torch.uint8))
    assert offsets.shape == (2, 8732, 4) and logits.shape == (2, 8732, 81)
    assert len(model.units()) == 3 + 4 + 6 + 5


def test_predictions_come_in_the_order_of_the_default_boxes():
    node = config("task=coco_ssd")["task"]
    model = build(node["models"]["torch"], SsdResnet, key="task.models.torch")
    defaults = build(node["default_boxes"], DefaultBoxes, key="task.default_boxes")
    model.eval()
    with torch.no_grad():
        for heads, size in ((model.offset_heads, 4), (model.class_heads, 11)):
            for number, head in enumerate(heads):
                head.weight.zero_()
                per_place = defaults.per_place[number]
                head.bias.copy_(torch.arange(per_place * size) + 1000 * number)
        offsets, logits = model._predictions(torch.zeros(2, 96, 96, 3, dtype=torch.uint8))
    for found, size in ((offsets, 4), (logits, 11)):
        rows = [
            np.arange(size) + size * box + 1000 * number
            for number, (side, per_place) in enumerate(zip(defaults.maps, defaults.per_place, strict=True))
            for _ in range(side**2)
            for box in range(per_place)
        ]
        np.testing.assert_array_equal(found[1].numpy(), rows)
        assert len(rows) == len(defaults.centred)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": []}, r"task.models.torch.widths=\[\] cannot be used"),
        ({"num_blocks": [3, 4]}, r"task.models.torch.num_blocks=\[3, 4\] cannot be used. Allowed: 3 whole numbers"),
        ({"strides": [1, 2, 0]}, r"task.models.torch.strides=\[1, 2, 0\] cannot be used"),
        ({"extras": [[8, 8]]}, r"task.models.torch.extras=\[\[8, 8\]\] cannot be used. Allowed: 5 pairs"),
        ({"strides": [1, 2, 2]}, r"task.default_boxes.maps=\[38, .*Allowed: \[19, 10, 5, 3, 2, 1\], what the network"),
    ],
)
def test_a_network_whose_maps_are_not_those_of_the_default_boxes_is_refused(changes, message):
    with pytest.raises(SettingError, match=message):
        full(**changes)
