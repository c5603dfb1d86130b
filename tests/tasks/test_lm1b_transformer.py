"""The LM1B task: the contract, its shards whole and broken, its miniature, its model in both frameworks."""

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import fsspec
import numpy as np
import pytest

from dataecho.build import build
from dataecho.errors import DataError, SettingError
from dataecho.modes import run_mode
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.source import shard_lengths
from dataecho.pipeline.stage import Broken, run_stage
from dataecho.sources.remote import MissingFile
from dataecho.testing.source_contract import SourceContract, all_positions, fingerprints
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import Task
from dataecho_tasks.lm1b_transformer.count import main
from dataecho_tasks.lm1b_transformer.miniature import miniature
from dataecho_tasks.lm1b_transformer.sentences import SentenceSource, benchmark
from dataecho_tasks.shared.text.source import tokenized
from dataecho_tasks.shared.text.tokenizer import ByteTokenizer
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "task=lm1b_transformer")
SMALL = ("task.train.num_sentences=400", "task.train.num_eval_sentences=60", "task.sequence_length=32")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """Nothing of a test stays in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return tmp_path / "user_cache" / "dataecho"


def lm1b(cache, *overrides):
    node = config(*QUIET, *SMALL, f"task.train.cache_dir={cache}", *overrides)["task"]
    return build(node, Task, key="task")


class TestLm1b(TaskContract):
    @pytest.fixture
    def task(self, cache):
        return lm1b(cache)

    @pytest.fixture
    def outputs(self):
        candidates = {"candidates": [101, 116, 97], "scores": [3.0, 2.0, 1.0]}
        return {"loss": 0.5, **candidates}, {"loss": 5.0, **candidates}


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode() + end.encode())
    return str(path)


def write_lines(folder, *, first="sentence 0"):
    """Three shards of lines of 10 bytes: rows of 11 tokens are a line, its end, and the next one's first letter."""
    for shard in range(3):
        lines = [f"sentence {k % 10}" for k in range(10 * shard, 10 * shard + 6)]
        name = f"{shard}b" if shard == 0 and first != "sentence 0" else f"{shard}"
        write(folder / f"{name}.txt", *([first, *lines[1:]] if shard == 0 else lines), f"number {shard}..")
    return f"{folder}/*.txt"


def source(urls, *, sequence_length=11, **settings):
    return SentenceSource(urls, tokenizer=ByteTokenizer(), sequence_length=sequence_length, **settings)


class TestLocalSentences(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        urls = write_lines(tmp_path / "data")
        return lambda: source(urls)

    @pytest.fixture
    def changed_source(self, tmp_path):
        return source(write_lines(tmp_path / "changed", first="Sentence 0"))


class TestFarSentences(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        write_lines(tmp_path / "data")
        memory = fsspec.filesystem("memory")
        for path in (tmp_path / "data").iterdir():
            memory.pipe(f"/lm1b/{path.name}", path.read_bytes())
        made = []

        def new():
            made.append(1)
            return source("memory://lm1b/*.txt", cache_dir=str(tmp_path / f"cache-{len(made)}"))

        return new

    @pytest.fixture
    def changed_source(self, tmp_path):
        return source(write_lines(tmp_path / "changed", first="Sentence 0"))


def rows(of):
    stage = lambda record: tokenized(record, tokenizer=of.tokenizer, sequence_length=of.sequence_length)  # noqa: E731
    return [bytes(stage(record)["tokens"].astype(np.uint8)) for record in of.read(*all_positions(of))]


# ---- packing


@pytest.mark.parametrize("sequence_length", [1, 2, 5, 11, 20])
def test_rows_are_the_whole_text_each_beginning_where_the_last_ended(tmp_path, sequence_length):
    lines = ["a", "", "longer than a row of tokens is", "ü", "", "", "b c"]
    of = source(write(tmp_path / "a.txt", *lines), sequence_length=sequence_length)
    text = "".join(f"{line}\n" for line in lines if line).encode()
    number = (len(text) - 1) // sequence_length
    expected = [text[r * sequence_length : (r + 1) * sequence_length + 1] for r in range(number)]
    assert rows(of) == expected and number == of.num_examples(0) > 0


def test_no_row_goes_from_shard_to_shard(tmp_path):
    write(tmp_path / "0.txt", "0" * 8)
    write(tmp_path / "1.txt", "1" * 8)
    assert rows(source(f"{tmp_path}/*.txt", sequence_length=4)) == [b"00000", b"0000\n", b"11111", b"1111\n"]


def test_a_shard_is_tokenized_once_for_good(tmp_path, user_cache, monkeypatch):
    urls = write_lines(tmp_path / "data")
    expected = rows(source(urls))
    assert len(list((user_cache / "index").iterdir())) == 3
    monkeypatch.setattr(ByteTokenizer, "lengths", lambda *_: pytest.fail("the index was kept"))
    assert rows(source(urls)) == expected


def test_a_kept_index_that_was_damaged_is_made_again(tmp_path, user_cache):
    urls = write_lines(tmp_path / "data")
    expected = rows(source(urls))
    for number, path in enumerate(sorted((user_cache / "index").iterdir())):
        kept = json.loads(path.read_bytes())
        if number == 0:
            kept["content"]["skip"][1] = kept["content"]["skip"][1][:-4] + "AAAA"
        elif number == 1:
            kept["content"]["skip"][0] += 1
        else:
            del kept["content"]["end"]
        path.write_text(json.dumps(kept))
    assert rows(source(urls)) == expected


def test_another_row_length_is_another_index_and_another_digest(tmp_path):
    urls = write_lines(tmp_path / "data")
    assert source(urls).num_examples(0) != source(urls, sequence_length=5).num_examples(0)
    assert source(urls).digest != source(urls, sequence_length=5).digest


def test_a_pickled_source_reads_the_same(tmp_path):
    of = source(write_lines(tmp_path / "data"))
    assert rows(pickle.loads(pickle.dumps(of))) == rows(of)


def test_the_lines_are_those_of_the_shard(tmp_path):
    of = source(write(tmp_path / "a.txt", "first one here", "", "second"))
    assert list(of.lines(0)) == [b"first one here", b"second"]


# ---- broken data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.txt is empty. Bring it there again. The corpus, 1-billion"),
        (b"whole line\nhalf a li", "a.txt is cut short: its last line, at byte 20, has no end"),
        (b"\x1f\x8b\x08\x00 and so on\n", "a.txt is compressed"),
        (b"text\0binary\n", "a.txt is no text: it has bytes of zero"),
        (b"short\n", "a.txt has 6 tokens, too few for one row of 12"),
        (b"\n\n\n", "a.txt has 0 tokens"),
    ],
)
def test_a_file_that_is_no_whole_shard_is_told(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        source(f"{tmp_path}/a.txt").num_examples(0)


def test_a_row_that_is_not_utf_8_fails_alone(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"0123456789\n" + b"01234\xff6789\n" + b"0123456789\n" * 3)
    of = source(f"{tmp_path}/a.txt")
    task_stage = build(config(*QUIET, *SMALL)["task"], Task, key="task").stages()[0]
    stage = replace(task_stage, function=lambda record: tokenized(record, tokenizer=of.tokenizer, sequence_length=11))
    found = run_stage(stage, of.read(*all_positions(of)), None)
    assert [isinstance(row, Broken) for row in found] == [True, True, False, False]
    assert "UnicodeDecodeError" in found[1].reason and of.name(0, 1) == "a.txt: row 1"


def test_a_file_that_changed_since_it_was_indexed_is_told(tmp_path):
    urls = write(tmp_path / "a.txt", "0123456789", "0123456789")
    source(urls).num_examples(0)
    write(tmp_path / "a.txt", "0123456789", "0123456789", "more")
    with pytest.raises(DataError, match="has changed: it was 22 bytes.* Put the old file back, or delete its index"):
        source(urls).read(np.array([0]), np.array([0]))


def test_a_wrong_folder_says_where_the_corpus_is(tmp_path):
    with pytest.raises(MissingFile, match=r"no file matches.* http://www.statmt.org/lm-benchmark/"):
        source(f"{tmp_path}/*.txt")


# ---- the published corpus


def published(folder):
    for number in range(1, 100):
        write(folder / "training-monolingual.tokenized.shuffled" / f"news.en-{number:05d}-of-00100", f"Line {number} .")
    for number in range(50):
        name = f"news.en.heldout-{number:05d}-of-00050"
        write(folder / "heldout-monolingual.tokenized.shuffled" / name, f"Held out {number} .")
    write(folder / "heldout-monolingual.tokenized.shuffled" / "news.en-00000-of-00100", "Held out, all of it .")
    return str(folder)


def of_benchmark(folder, split="train", **settings):
    return benchmark(folder=folder, split=split, tokenizer=ByteTokenizer(), sequence_length=4, **settings)


def test_the_archive_is_read_as_it_is_unpacked(tmp_path):
    folder = published(tmp_path)
    train, held_out = of_benchmark(folder), of_benchmark(folder, "eval")
    assert (train.num_shards, held_out.num_shards) == (99, 50)
    assert list(train.lines(0)) == [b"Line 1 ."] and list(train.lines(98)) == [b"Line 99 ."]
    assert list(held_out.lines(49)) == [b"Held out 49 ."]
    assert of_benchmark(folder, num_shards=3).num_shards == 3
    assert of_benchmark("https://example.org/lm1b").num_shards == 99, "nothing is asked before it is needed"


def test_part_of_the_archive_is_no_corpus(tmp_path):
    folder = published(tmp_path)
    for number in (7, 9):
        (tmp_path / "training-monolingual.tokenized.shuffled" / f"news.en-{number:05d}-of-00100").unlink()
    with pytest.raises(
        DataError, match=r"news.en-00007-of-00100 is not there, and 1 more of 99 files.*4.2 GB unpacked"
    ):
        of_benchmark(folder)
    with pytest.raises(SettingError, match="num_shards=100 cannot be used. Allowed: null .* or 1 to 99"):
        of_benchmark(folder, num_shards=100)
    with pytest.raises(SettingError, match="split=test cannot be used. Allowed: train, eval"):
        of_benchmark(folder, "test")


def test_the_sentences_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["count", published(tmp_path)])
    assert main() == 1
    assert capsys.readouterr().out == (
        "train: 99 sentences, published are 30,301,028: it is another corpus\n"
        "eval: 50 sentences, published are 306,688: it is another corpus\n"
    )
    monkeypatch.setattr("dataecho_tasks.lm1b_transformer.count.NUM_SENTENCES", {"train": 99, "eval": 50})
    assert main() == 0 and "train: 99 sentences, as published\n" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["count", str(tmp_path / "elsewhere")])
    assert main() == 2 and "and 98 more of 99 files are not" in capsys.readouterr().err


# ---- the miniature


def small(cache, split="train", **changed):
    settings = {"num_sentences": 400, "num_eval_sentences": 60, "cache_dir": cache} | changed
    return miniature(split=split, tokenizer=ByteTokenizer(), sequence_length=32, **settings)


def all_lines(of):
    return [line for shard in range(of.num_shards) for line in of.lines(shard)]


def test_the_miniature_is_prose_and_no_line_comes_twice(cache):
    train, held_out = (all_lines(small(cache, split)) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (400, 60)
    assert len({*train, *held_out}) == 460
    letters = sum(chr(byte).isalpha() or byte == 32 for line in train for byte in line)
    assert letters > 0.93 * sum(map(len, train))


def test_the_miniature_is_written_once_and_always_the_same(cache, tmp_path):
    first, again = small(cache), small(str(tmp_path))
    assert all_lines(first) == all_lines(again) and first.digest == again.digest
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "index"]
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    folder.rename(unfinished)
    assert fingerprints(small(str(tmp_path)).read(*all_positions(first))) == fingerprints(
        first.read(*all_positions(first))
    ), "written anew, the index that was kept still fits"
    assert not unfinished.exists()


def ask(cache_dir):
    return all_lines(small(cache_dir))


def test_processes_that_ask_at_once_get_the_same_miniature(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        first, second = pool.map(ask, [str(tmp_path)] * 2)
    assert len(first) == 400 and first == second


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.train.num_sentences=99999999", "task.train.num_sentences=99999999 cannot be used. Allowed: at most"),
        ("task.train.num_sentences=3", "task.train.num_sentences=3 cannot be used. Allowed: whole numbers >= 8"),
        ("task.train.split=dev", "task.train.split=dev cannot be used. Allowed: train, eval"),
        ("task.sequence_length=0", "sequence_length=0 cannot be used. Allowed: whole numbers >= 1"),
        ("task.vocab_size=300", "task.vocab_size=300 cannot be used. Allowed: 256, which is what task.train gives"),
        ("task.eval.sequence_length=16", "task.sequence_length=32 cannot be used. Allowed: 16, which .* task.eval"),
        ("task.train.tokenizer=null", "task.train.tokenizer=NoneType cannot be used. Allowed: a node"),
        ("~task.train.split", "task.train.split=nothing cannot be used. Allowed: a value"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(cache, override, message):
    with pytest.raises(SettingError, match=message):
        lm1b(cache, override)


# ---- the task


def test_only_packed_text_of_one_vocabulary_will_do(cache, tmp_path):
    task = lm1b(cache)
    with pytest.raises(SettingError, match="task.eval=NoneType cannot be used. Allowed: .* a source of packed text"):
        replace(task, eval=None)
    other = lm1b(cache)
    object.__setattr__(other.eval, "tokenizer", type("Bytes", (ByteTokenizer,), {"digest": "another"})())
    with pytest.raises(SettingError, match="task.eval.tokenizer=another vocabulary cannot be used"):
        replace(task, eval=other.eval)


def test_an_echo_of_examples_repeats_rows(cache):
    task = lm1b(cache)
    with Feed(
        task.train_source(), task.stages(), batch_size=8, shuffle_buffer=0, seed=0, echo_after="tokenize", factor=2.0
    ) as feed:
        tokens = next(feed)["tokens"]
    assert tokens.shape == (8, 33) and tokens.dtype == np.int32
    assert len(np.unique(tokens, axis=0)) == 4


def test_every_shard_counts_its_rows(cache):
    task = lm1b(cache)
    lengths = shard_lengths(task.train_source())
    assert len(lengths) == 8
    sizes = [sum(len(line) + 1 for line in task.train_source().lines(shard)) for shard in range(8)]
    assert lengths == [(size - 1) // 32 for size in sizes]


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_the_full_size_composes_and_has_as_many_weights_as_it_says(tmp_path, backend):
    from dataecho_tasks.shared.text.train_tokenizer import save, trained

    folder = published(tmp_path / "lm1b")
    path = save(trained([f"word{number} and".encode() for number in range(50)], num_tokens=300), tmp_path)
    overrides = ("task/lm1b_transformer_data=full", f"task.train.folder={folder}", f"task.tokenizer.path={path}")
    node = config(*QUIET, *overrides, f"backend={backend}")["task"]
    model = build({**node["models"][backend]}, object, key="model")
    if backend == "torch":
        number = sum(values.numel() for values in model.parameters())
    else:
        number = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    layer = 4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    assert number == (32000 + 32) * 512 + 6 * layer + 2 * 512 == 35_315_712
    assert (node["batch_size"], node["shuffle_buffer"], node["target"]) == (1024, 1_000_000, 3.9)
    assert node["budget"] == 20_000 * 1024
    with pytest.raises(SettingError, match="task.vocab_size=32000 cannot be used. Allowed: 300"):
        build(node, Task, key="task")


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_it_learns_with_an_echo(cache, tmp_path, backend):
    sizes = ("task.models.torch.num_layers=1", "task.models.torch.width=32", "task.sequence_length=16")
    run = ("echo=example", "factor=2", "budget.fresh=1024", "task.batch_size=16", "task.eval_interval=512")
    node = config(
        *QUIET, *SMALL, *sizes, *run, "budget=fresh", f"backend={backend}", f"task.train.cache_dir={cache}",
        f"run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    run_mode(node, folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 1000 <= summary["fresh_examples"] <= 1024 and summary["delivered_examples"] == 16 * summary["steps"]
    assert summary["cross_entropy"] < 3.5, "bytes alone have 4.2"
