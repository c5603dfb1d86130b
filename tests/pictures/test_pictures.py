"""Pictures say what they were given: every image, every label, every word; and they are files of the size meant."""

import numpy as np
import pytest
from PIL import Image

from dataecho.pictures import predictions, preview
from dataecho.pictures.canvas import Canvas, shortened, wrapped
from dataecho.pictures.trace import Repeat, Trace, Traced
from dataecho.training.shown import Box, Shown, classified, described, in_numbers


def image(value, height=8, width=8):
    return np.full((height, width, 3), value, dtype=np.uint8)


def grey(value):
    return Shown(image=image(value), caption=f"label {value}")


def example(first, *, num_repeats=3, batch=1, steps=(1, 5, 1234)):
    once = (grey(first), grey(first + 1))
    repeats = tuple(Repeat(step, (grey(first + 10 * n), grey(first + 10 * n + 1))) for n, step in enumerate(steps, 2))
    return Traced(f"file {first}", batch, num_repeats, once, repeats)


def saved(canvas, path):
    with Image.open(canvas.save(path)) as picture:
        picture.verify()
        assert picture.format == "PNG"
        return picture.size


def test_a_preview_has_every_stage_once_and_every_repeat_after_the_bar(tmp_path):
    found = Trace(("read", "decode"), ("crop", "colour"), frozenset({"crop"}), (example(100), example(20)))
    canvas = preview.draw_preview(found, title="two files")
    values = [int(pixels[0, 0, 0]) for pixels in canvas.images]
    assert values == [100, 101, 120, 121, 130, 131, 140, 141, 20, 21, 40, 41, 50, 51, 60, 61]
    words = canvas.words
    assert {"two files", "read", "decode", "crop (random)", "colour", "file 100", "file 20"} <= set(words)
    assert words.count("label 100") == 1 and words.count("label 101") == 1
    assert words.count("step 1") == words.count("step 5") == words.count("step 1,234") == 4  # two stages, two files
    assert words.count("used 3 times") == 2
    assert "new random numbers" in preview.explained(found)
    # Eight panels of 104 with 12 between, twice that between stages, 26 for the bar, margins; two rows.
    assert saved(canvas, tmp_path / "a.png") == (16 + 8 * 104 + 8 * 12 + 26 + 16, 92 + 2 * (17 + 104 + 18 + 12) + 4)


def test_a_preview_says_what_is_left_out_and_when_nothing_is_new():
    found = Trace(("read", "decode"), ("batch", "device"), frozenset({"decode"}), (example(9, num_repeats=8),))
    assert "used 8 times; the first 3 of them" in preview.draw_preview(found, title="").words
    assert preview.explained(found).endswith("every use is the same.")
    once = Trace(("read", "decode"), (), frozenset(), (Traced("a file", 1, 1, (grey(1), grey(2)), ()),))
    assert preview.explained(once).startswith("No echo")
    assert len(preview.draw_preview(once, title="").images) == 2


def test_copies_of_a_batch_are_framed_together():
    rows = (example(10), example(30), example(50, batch=2))
    canvas = preview.draw_preview(Trace(("read", "decode"), ("batch", "x"), frozenset(), rows), title="")
    assert {"batch 1: file 10", "batch 1: file 30", "batch 2: file 50"} <= set(canvas.words)


def test_a_preview_of_text_can_be_read():
    shown = Shown(text="two\nlines", caption="9 bytes")
    found = Trace(("read",), ("batch",), frozenset(), (Traced("row 1", 1, 2, (shown,), (Repeat(7, (shown,)),)),))
    assert preview.has_text(found)
    assert list(preview.in_words(found)) == [
        "row 1 (used 2 times; the first 1 of them)",
        "  read: 9 bytes",
        "    two",
        "    lines",
        "  batch, step 7: 9 bytes",
        "    two",
        "    lines",
        "",
    ]
    words = preview.draw_preview(found, title="").words
    assert words.count("two") == words.count("lines") == 2 and "step 7" in words


def test_classes_are_named_and_wrong_ones_say_both():
    examples = [grey(1), grey(2), grey(3)]
    outputs = {"loss": np.zeros(3), "predicted": np.array([0.0, 2.0, 2.0])}  # a backend may make floats of numbers
    by_number = classified(examples, np.array([0, 1, 2]), outputs)
    assert [(one.caption, one.is_right) for one in by_number] == [("0", True), ("2, is 1", False), ("2", True)]
    by_name = classified(examples, np.array([0, 1, 2]), outputs, names=["cat", "dog", "bird"])
    assert [one.caption for one in by_name] == ["cat", "bird, is dog", "bird"]
    with pytest.raises(ValueError, match="outputs loss, correct lack 'predicted'"):
        classified(examples, np.array([0, 1, 2]), {"loss": np.zeros(3), "correct": np.zeros(3)})


def test_a_grid_of_predictions_has_every_image_and_label(tmp_path):
    shown = [Shown(image=image(n), caption=f"class {n}", is_right=n != 3) for n in range(10)]
    canvas = predictions.draw_predictions(shown, title="ten")
    assert [int(pixels[0, 0, 0]) for pixels in canvas.images] == list(range(10))
    assert {"ten", *(f"class {n}" for n in range(10))} <= set(canvas.words)
    assert "9 of 10 are right; red: wrong, what the model says and what it is." in canvas.words
    assert saved(canvas, tmp_path / "a.png") == (984, 62 + 2 * (112 + 18 + 8) + 8)  # eight in a row
    rows = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    red = ((rows - (0xC6, 0x28, 0x28)) == 0).all(axis=2)
    assert red[:, 16 + 3 * 120 - 2 : 16 + 3 * 120 + 114].sum() == red.sum() > 300  # a frame around the fourth only


def test_boxes_have_their_labels_and_scores():
    boxes = (
        Box(left=1, top=1, right=5, bottom=6, label="dog"),
        Box(left=1, top=2, right=5, bottom=6, label="cat", score=0.456),
    )
    canvas = predictions.draw_predictions([Shown(image=image(0, 8, 12), boxes=boxes)], title="")
    assert {"dog", "cat 0.46"} <= set(canvas.words)
    assert "Green: what is there. Dashed, with a score: what the model sees." in canvas.words


def test_what_a_model_writes_stands_after_its_text_in_picture_and_file():
    shown = [Shown(text="It was a ", continuation="dark\nnight", caption="row 1")]
    canvas = predictions.draw_predictions(shown, title="")
    assert {"It was a ", "dark", "night", "row 1"} <= set(canvas.words)
    assert list(predictions.in_words(shown)) == ["1. row 1", "  It was a ", "> dark", "> night", ""]
    assert predictions.has_text(shown) and not predictions.has_text([grey(1)])


def test_a_text_that_is_too_long_ends_in_dots():
    canvas = predictions.draw_predictions([Shown(text="\n".join(map(str, range(100))))], title="")
    assert "10" in canvas.words and "…" in canvas.words and "11" not in canvas.words


def test_text_is_drawn_as_it_is(tmp_path, recwarn):
    canvas = Canvas(200, 50)
    canvas.text("$x^2$ and $\\frac 漢", 0, 0)  # half a formula, and a letter that the font may lack
    assert saved(canvas, tmp_path / "a.png") == (200, 50)
    assert not list(recwarn)


def test_lines_are_broken_and_names_shortened():
    assert wrapped("a b\tc\x07d\n\nlonger words", 49) == ["a b c·d", "", "longer", "words"]
    assert shortened("short", 100) == "short"
    assert shortened("/a/very/long/path/to/a/file.jpg", 70) == "/a/ve…e.jpg"


def test_examples_of_which_nothing_is_known_are_described():
    found = described({"image": np.zeros((2, 3), np.float32), "label": np.int64(7), "file": b"1234", "made": object})
    assert found.text == "image: float32 [2, 3]\nlabel: 7\nfile: 4 bytes\nmade: type"
    assert described(b"12").text == "2 bytes"
    assert in_numbers({"loss": np.array([0.5, 1.23456]), "x": np.zeros((2, 2))}, 1) == "loss 1.23"
