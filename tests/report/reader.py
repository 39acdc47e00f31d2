"""A page as a browser's parser sees it: which tags, which text, which scripts."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from interp.report.payload import environment


def piece(name: str, *given: Any) -> str:
    """What one of the pieces that pages are made of writes for these values."""
    return getattr(environment().get_template("parts.html").module, name)(*given)


class Page(HTMLParser):
    """`tags` as (name, attributes), `words` the visible text, `scripts` the content of each script."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self._words: list[str] = []
        self._inside = ""
        self.feed(source)
        self.words = " ".join(" ".join(self._words).split())

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self._words.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        """Attributes of every such tag, of one class when `kind` is given."""
        return [
            a for name, a in self.tags if name == tag and (not kind or kind in a.get("class", "").split())
        ]

    def unpacked(self, place: int) -> str:
        """What one of the packed blocks holds: 0 is data, 1 is plotly."""
        return gzip.decompress(base64.b64decode(self.scripts[place])).decode()

    @property
    def data(self) -> dict[str, Any]:
        """Drawings, rows of tokens and tables that the page's script draws."""
        return json.loads(self.unpacked(0))

    @property
    def figures(self) -> dict[str, Any]:
        return self.data["figures"]
