"""Shared parts of the language tasks: vocabularies of sub-words, packing, the sizes of a model."""

import re
import subprocess
import sys

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho_tasks.lm1b_transformer.sentences import SentenceSource
from dataecho_tasks.shared.text.packing import pack, smallest, tables_as_json, tables_from_json
from dataecho_tasks.shared.text.sampling import continued
from dataecho_tasks.shared.text.sizes import require_sizes
from dataecho_tasks.shared.text.source import tokenized
from dataecho_tasks.shared.text.tokenizer import ByteTokenizer, SubwordTokenizer
from dataecho_tasks.shared.text.train_tokenizer import save, tokens_per_word, trained
from tests.support import PROJECT

LINES = [
    f"the {name} {verb} the {other}, wirklich: ü {number}".encode()
    for number, (name, verb, other) in enumerate(
        (name, verb, other) for name in ("cat", "dog") for verb in ("sees", "hears") for other in ("bird", "tree")
    )
]


@pytest.fixture
def path(tmp_path):
    return save(trained(LINES, num_tokens=290), tmp_path)


def test_a_vocabulary_is_a_function_of_the_text_and_named_by_its_content(path, tmp_path):
    again = save(trained(LINES, num_tokens=290), tmp_path / "again")
    assert again.read_bytes() == path.read_bytes() and again.name == path.name
    assert path.name.startswith("subwords-290-")
    other = save(trained([*LINES[1:], b"another text altogether"] * 2, num_tokens=290), tmp_path)
    assert other.name != path.name
    assert SubwordTokenizer(str(path)).digest != SubwordTokenizer(str(other)).digest


def test_sub_words_give_back_the_text_line_by_line(path):
    tokenizer = SubwordTokenizer(str(path))
    ids = tokenizer.encode(LINES)
    assert tokenizer.num_tokens == 290 and ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < 290
    assert len(ids) < sum(map(len, LINES)) / 2, "sub-words, not bytes"
    ends = np.flatnonzero(ids == 0)
    np.testing.assert_array_equal(np.diff(ends, prepend=-1), tokenizer.lengths(LINES))
    pieces = np.split(ids, ends + 1)[:-1]
    assert [tokenizer._tokenizer.decode(piece[:-1].tolist()).encode() for piece in pieces] == LINES
    np.testing.assert_array_equal(np.concatenate([tokenizer.encode([line]) for line in LINES]), ids)


def test_any_tokens_are_text_for_a_person(path):
    sub_words, of_bytes = SubwordTokenizer(str(path)), ByteTokenizer()
    for tokenizer in (sub_words, of_bytes):
        assert tokenizer.decode(tokenizer.encode(LINES).tolist()).encode() == b"\n".join(LINES) + b"\n"
        assert tokenizer.decode([]) == ""
    assert sub_words.decode([0, 0]) == "\n\n"  # lines that end at once
    assert of_bytes.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"  # half of a letter


def test_a_continuation_is_drawn_among_the_candidates_and_moves_the_row_on():
    asked = []

    def predict(rows):
        """The next two numbers, the first of them 9 times as likely."""
        asked.append(rows["tokens"].copy())
        last = rows["tokens"][:, -2]
        return {"candidates": np.stack([last + 1, last + 2], axis=1), "scores": np.log([[9.0, 1.0]] * len(last))}

    tokens = np.arange(5, dtype=np.int32) + 100 * np.arange(200, dtype=np.int32)[:, None]
    written = continued(tokens, predict, num_tokens=3)
    assert written.shape == (200, 3) and written.dtype == np.int32
    steps = np.diff(np.concatenate([tokens[:, 3:4], written], axis=1))
    assert set(steps.ravel().tolist()) == {1, 2} and 1.05 < steps.mean() < 1.15
    np.testing.assert_array_equal(asked[0], tokens)
    np.testing.assert_array_equal(asked[2][:, :-1], np.concatenate([tokens[:, 2:4], written[:, :2]], axis=1))
    np.testing.assert_array_equal(continued(tokens, predict, num_tokens=3), written)
    sure = lambda rows: {**predict(rows), "scores": np.array([[0.0, 1000.0]] * len(tokens))}  # noqa: E731
    np.testing.assert_array_equal(np.diff(continued(tokens, sure, num_tokens=3)), 2)


def test_the_text_of_an_end_is_no_end(path):
    ids = SubwordTokenizer(str(path)).encode([b"a <end> b"])
    assert (ids == 0).sum() == 1 and ids[-1] == 0


def test_text_that_is_not_utf_8_has_a_length_and_no_tokens(path):
    for tokenizer in (SubwordTokenizer(str(path)), ByteTokenizer()):
        assert tokenizer.lengths([b"a\xff"])[0] >= 2
        with pytest.raises(UnicodeDecodeError):
            tokenizer.encode([b"a\xff"])


def test_rows_of_sub_words_are_the_whole_text(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    (tmp_path / "a.txt").write_bytes(b"".join(line + b"\n" for line in LINES))
    tokenizer = SubwordTokenizer(str(path))
    source = SentenceSource(str(tmp_path / "a.txt"), tokenizer=tokenizer, sequence_length=7)
    number = source.num_examples(0)
    records = source.read(np.zeros(number, dtype=np.int64), np.arange(number))
    rows = [tokenized(record, tokenizer=tokenizer, sequence_length=7)["tokens"] for record in records]
    ids = tokenizer.encode(LINES)
    assert number == (len(ids) - 1) // 7
    for row, tokens in enumerate(rows):
        np.testing.assert_array_equal(tokens, ids[7 * row : 7 * row + 8])
    of_bytes = SentenceSource(str(tmp_path / "a.txt"), tokenizer=ByteTokenizer(), sequence_length=7)
    assert of_bytes.digest != source.digest and of_bytes.num_examples(0) > number


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "path=.* cannot be used. Allowed: a file of the tokenizers library. .*No such file.* Make one"),
        (b"{}", "path=.* cannot be used. Allowed: a file of the tokenizers library"),
        (
            trained(LINES, num_tokens=260).to_str().replace("<end>", "<other>").encode(),
            "a vocabulary with the token <end>",
        ),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SettingError, match=message):
        SubwordTokenizer(str(tmp_path / "a.json"))


def test_a_vocabulary_that_is_too_small_for_bytes_is_refused():
    with pytest.raises(SettingError, match="num_tokens=256 cannot be used. Allowed: whole numbers > 256"):
        trained(LINES, num_tokens=256)


def test_the_command_learns_from_the_training_set(tmp_path):
    command = [
        *(sys.executable, "-m", "dataecho_tasks.shared.text.train_tokenizer", "task=lm1b_transformer"),
        *("task.train.num_sentences=400", "task.train.num_eval_sentences=60", f"task.train.cache_dir={tmp_path}"),
        *("--folder", str(tmp_path), "--num-tokens", "500", "--num-bytes", "10000"),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True)
    (path,) = tmp_path.glob("subwords-500-*.json")
    assert done.stdout.split() == [str(path)]
    tokenizer = SubwordTokenizer(str(path))
    assert tokenizer.num_tokens == 500
    ratio = re.search(r"([0-9.]+) tokens a word.* the target of 2.0 nats per token is ([0-9.]+) per word", done.stderr)
    assert float(ratio[2]) == pytest.approx(2.0 * float(ratio[1]), abs=0.02)
    assert tokens_per_word(tokenizer, [b"a bc", b"d"]) == (tokenizer.lengths([b"a bc"])[0] + 2) / 3


# ---- packing


def test_a_row_knows_its_lines():
    rows = pack(np.array([3, 0, 4, 2, 5]), 4)
    assert [array.tolist() for array in rows] == [[0, 2, 3], [2, 3, 4], [0, 1, 1]]
    assert [len(array) for array in pack(np.array([4]), 4)] == [0, 0, 0]
    assert [array.tolist() for array in pack(np.array([5]), 4)] == [[0], [0], [0]]
    assert [len(array) for array in pack(np.array([], dtype=np.int64), 4)] == [0, 0, 0]


def test_tables_come_back_in_the_smallest_type():
    tables = {"a": smallest([0, 70000, 3]), "b": smallest([]), "c": smallest([255])}
    back = tables_from_json(tables_as_json(tables))
    assert {name: (array.tolist(), array.dtype.name) for name, array in back.items()} == {
        "a": ([0, 70000, 3], "uint32"),
        "b": ([], "uint8"),
        "c": ([255], "uint8"),
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 0}, r"task.models.torch.width=0 cannot be used"),
        ({"num_layers": 0}, r"task.models.torch.num_layers=0 cannot be used"),
        ({"num_heads": 3}, r"num_heads=3 cannot be used. Allowed: divisors of task.models.torch.width=8"),
        ({"dropout": 1.0}, r"dropout=1 cannot be used. Allowed: shares in \[0, 1\)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(setting, message):
    sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 4, "dropout": 0.0}
    require_sizes("torch", **sizes)
    with pytest.raises(SettingError, match=message):
        require_sizes("torch", **sizes | setting)
