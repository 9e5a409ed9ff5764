"""The page is one file, complete in itself, and nothing in it can break out."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from convc.model import Model
from convc.networks import strided
from convc.report.data import Facts, record
from convc.report.render import SCRIPTS, embedded, render

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "{{script}}",
    "\u2028\u2029\x00'\"`${alert(1)}",
)


class Elements(HTMLParser):
    """The elements of a page, and the text of those with an id or none of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        if self._in == "title":
            self.title += data


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    program = Model(strided).training_step().compile(batch=4, threads=1)
    return record(program, Facts("training"))


def test_the_page_names_no_other_file(made: dict[str, Any]) -> None:
    page = render(made)
    for tag, attributes in Elements(page).tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "href", "action", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_record_is_embedded_as_it_is(made: dict[str, Any]) -> None:
    data, script = Elements(render(made)).scripts
    assert json.loads(data) == json.loads(json.dumps(made))
    assert script.startswith('"use strict";')


@pytest.mark.parametrize("text", HOSTILE)
def test_no_string_breaks_out_of_the_record(made: dict[str, Any], text: str) -> None:
    bad = {
        **made,
        "head": {**made["head"], "model": text},
        "layers": [text for _ in made["layers"]],
        "source": text,
    }
    plain, page = Elements(render(made)), Elements(render(bad))
    assert page.tags[1:] == plain.tags[1:], "no element more, no attribute more"
    assert json.loads(page.scripts[0])["source"] == text
    assert page.scripts[1] == plain.scripts[1]
    assert page.title.replace("\ufffd", "\x00").startswith(text)


def test_embedded_json_holds_no_character_of_markup() -> None:
    text = embedded({"names": list(HOSTILE)})
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"names": list(HOSTILE)}


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        embedded({"seconds": float("nan")})


def test_scripts_write_text_never_markup() -> None:
    """What the page is made of are files of the package, each of them used."""
    folder = files("convc.report")
    for name in SCRIPTS:
        text = folder.joinpath(f"{name}.js").read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|\.write\(", text)
        assert not re.search(r"\beval\b|new Function|fetch\(|XMLHttp|import\(", text)
        assert "</" not in text
    listed = {f"{name}.js" for name in SCRIPTS}
    assert {p.name for p in folder.iterdir() if p.name.endswith(".js")} == listed
