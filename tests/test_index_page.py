"""README.md on the page of a package index."""

import importlib.util

from tests.support import PROJECT

_spec = importlib.util.spec_from_file_location("index_page", PROJECT / "docs/index_page.py")
index_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(index_page)

TEXT = "![a curve](docs/a.png)\nSee [the page](docs/a.md#part), [below](#below), [a paper](https://example.org/p)."


def test_with_an_address_links_and_pictures_lead_there():
    assert index_page.for_index(TEXT, address="https://example.org/blob/v1/") == (
        "![a curve](https://example.org/blob/v1/docs/a.png?raw=true)\n"
        "See [the page](https://example.org/blob/v1/docs/a.md#part), [below](#below), [a paper](https://example.org/p)."
    )


def test_without_an_address_nothing_is_broken():
    assert (
        index_page.for_index(TEXT, address="") == "\nSee the page, [below](#below), [a paper](https://example.org/p)."
    )
