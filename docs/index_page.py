"""A hook of hatchling: README.md for the page of a package index, where links to files of this repository lead nowhere.

With the variable DATAECHO_ADDRESS, the place where the files of the version can be seen, such as
``https://example.org/owner/dataecho/blob/v1.0.0``, links become absolute; ``?raw=true`` asks for the picture itself.
Without it, pictures are left out, and of links only their text remains.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?://|#)(?P<path>[^)\s]+)\)")


class IndexPage(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        shown = for_index(text, address=os.environ.get("DATAECHO_ADDRESS", ""))
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}


def for_index(text: str, *, address: str) -> str:
    """``text`` without a link relative to the repository."""

    def changed(link: re.Match[str]) -> str:
        if address:
            suffix = "?raw=true" if link["picture"] else ""
            return f"{link['picture']}[{link['text']}]({address.rstrip('/')}/{link['path']}{suffix})"
        return "" if link["picture"] else link["text"]

    return _LINK.sub(changed, text)
