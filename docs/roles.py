"""A hook of mkdocs: the roles of docstrings, such as ``:class:``, leave their names as code."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """``html`` of a page without the roles in front of code."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):(?=<code>)", "", html)
