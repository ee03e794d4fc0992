"""Parse a web page for assertions."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from hyperrule.run_folder import RunFolder


class Page(HTMLParser):
    """Tags, attributes, ids, texts by id of the element they are in, and SVG elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(html)
        self.svgs = [ElementTree.fromstring(_with_namespace(svg)) for svg in re.findall(r"<svg.*?</svg>", html, re.S)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._inside = dict(attrs).get("id") or self._inside

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._inside = ""

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def _with_namespace(svg: str) -> str:
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"', 1)


def page_of(run: RunFolder) -> Page:
    return Page(run.report_file.read_text(encoding="utf-8"))
