"""CI has no Docker engine, so this is what is checked of the image."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def copied() -> list[str]:
    lines = [line.split() for line in (ROOT / "docker/Dockerfile").read_text().splitlines()]
    return [source for words in lines if words[:1] == ["COPY"] for source in words[1:-1]]


def test_what_the_image_copies_exists() -> None:
    assert len(copied()) >= 10
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_what_the_image_copies_is_sent_to_the_engine() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied()) == sorted(allowed)
