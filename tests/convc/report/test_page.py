"""The page in a browser: what a person sees, points at and chooses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import LAPTOP, SCHEMES, chromium, complaints, prefer, requests, resize

from convc.model import Model
from convc.networks import four_conv
from convc.report.data import Facts, Record, record
from convc.report.render import render
from convc.roofline import Peaks

VIEWS = ("graph", "memory", "kernels", "code")
CENTRE = "arguments[0].scrollIntoView({block: 'center'})"


@pytest.fixture(scope="module")
def made() -> Record:
    """The training step of the four-conv network as if it had been measured."""
    program = Model(four_conv).training_step().compile(batch=128, threads=2)
    times = {k.node: 0.01 * (i + 1) for i, k in enumerate(program.kernels)}
    peaks = Peaks(gemm=2e11, memory=2e10, cache=1e11)
    return record(program, Facts("training", 0.25, times, peaks))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


class Page:
    """A page in the browser, asked in CSS selectors."""

    def __init__(self, browser: Any, file: Path, record: Record) -> None:
        self.browser = browser
        self.record = record
        self.address = file.as_uri()
        file.write_text(render(record), "utf-8")
        complaints(browser)
        requests(browser)
        browser.get("about:blank")
        browser.get(self.address)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.browser.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def texts(self, selector: str) -> list[str]:
        return [item.get_attribute("textContent") for item in self.all(selector)]

    def point(self, element: Any) -> str:
        """The tip that pointing at something shows."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).move_to_element(element).perform()
        return str(self.one("#tip").text)

    def press(self, selector: str) -> None:
        self.one(selector).click()

    def script(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def kernel(self, title: str) -> Any:
        """The kernel of that name on the right."""
        (found,) = (
            item
            for item in self.all(".after .node.title")
            if item.find_element("css selector", ".name").text == title
        )
        return found

    def chosen_code(self) -> str:
        return "\n".join(self.texts("#made-code .row.chosen .text"))

    def chosen_lines(self) -> list[int]:
        return [int(t) for t in self.texts("#yours-code .row.chosen .number")]


@pytest.fixture
def page(browser: Any, tmp_path: Path, made: Record) -> Page:
    return Page(browser, tmp_path / "report.html", made)


CONV2 = "conv2_conv_bias_pool_relu"


def last_kernels(record: Record) -> str:
    """The last stage before memory is planned."""
    return str([s for s in record["stages"] if s["stage"] != "planned"][-1]["name"])


def line_of(record: Record, text: str) -> int:
    (file,) = record["files"]
    return next(number for number, line in file["lines"] if text in line)


def test_it_loads_without_a_complaint_and_fetches_nothing(page: Page) -> None:
    assert page.script("return document.body.dataset.ready") == "yes"
    for view in VIEWS:
        page.press(f"#tab-{view}")
    assert complaints(page.browser) == []
    assert [u for u in requests(page.browser) if u != "about:blank"] == [page.address]


def test_the_head_says_what_was_compiled(page: Page) -> None:
    head = page.one("#head").text
    for said in ("four_conv", "training, numpy, batch 128, 2 threads", "250 ms"):
        assert said in head
    facts = dict(zip(page.texts("#facts dt"), page.texts("#facts dd"), strict=True))
    assert facts["kernels"] == str(len(page.record["kernels"]))
    assert facts["lines"] == str(page.record["source"].count("\n"))


def test_it_opens_with_the_trace_beside_the_kernels(page: Page) -> None:
    before, after = (page.one(f".{side}") for side in ("before", "after"))
    assert before.get_attribute("data-stage") == "trace"
    assert after.get_attribute("data-stage") == last_kernels(page.record)
    first = page.record["stages"][0]
    assert len(page.all(".before .box")) == len(first["nodes"])
    assert len(page.all(".after .box.kernel")) == len(page.record["kernels"])


def test_pointing_at_a_node_shows_its_line(page: Page) -> None:
    node = page.all(".before .node.op")[0]
    line = line_of(page.record, 'name="conv1"')
    tip = page.point(node)
    assert re.search(rf"networks\.py:{line}\n.*conv2d\(image, 64, 3", tip)
    assert "f32[N,28,28,64]" in tip
    assert page.texts("#yours-code .row.pointed .number") == [str(line)]
    twins = page.texts(".after .node.twin .name")
    assert twins == ["conv2d"], "the same op on the other side"
    page.point(page.one("h1"))
    assert not page.one("#tip").is_displayed()


def test_a_kernel_leads_to_its_code_and_to_its_lines(page: Page) -> None:
    page.kernel(CONV2).click()
    assert page.chosen_code().startswith(f"def {CONV2}(mem, n, t):")
    wanted = [line_of(page.record, f'name="{n}"') for n in ("conv2", "pool1")]
    assert page.chosen_lines() == wanted
    rows = page.all("#made-code .row.chosen")
    assert rows[0].is_displayed()
    pane = page.one("#made-code").rect
    assert pane["y"] <= rows[0].rect["y"] < pane["y"] + pane["height"]
    page.press("#show-ir")
    assert page.one("#made-ir").text.startswith("%")
    assert f"kernel {CONV2}(" in page.one("#made-ir").text


def test_a_line_leads_to_its_kernels_and_each_of_them_back(page: Page) -> None:
    line = line_of(page.record, 'name="conv2"')
    (row,) = (
        row
        for row in page.all("#yours-code .row.used")
        if row.find_element("css selector", ".number").text == str(line)
    )
    names = []
    for _ in range(4):
        row.click()
        names.append(page.chosen_code().partition("(")[0])
        assert line in page.chosen_lines()
        assert page.all(".after .box.kernel.chosen")
    assert names[0] == f"def {CONV2}"
    assert len(set(names[:3])) == 3, "forward, backward, update"
    assert names[3] == names[0]
    page.all("#siblings button")[1].click()
    assert page.chosen_code().startswith(names[1])


def test_many_kernels_of_one_line_are_leafed_through(page: Page) -> None:
    line = next(k for k, _ in page.script("return [...linesToKernels]"))
    page.script("linesToKernels.set(arguments[0], [2, 1, 3, 4, 5])", line)
    page.script("asked = arguments[0]; choose(1)", line)
    assert page.texts("#siblings button") == ["‹", "2 of 5", "›"]
    page.all("#siblings button")[2].click()
    assert page.texts("#siblings button")[1] == "3 of 5"
    assert page.script("return chosen.kernel") == 3


def test_a_line_of_generated_code_leads_to_the_users_line(page: Page) -> None:
    kernel = page.record["kernels"][1]
    row = page.all("#made-code .row")[kernel["first"] - 1]
    page.script(CENTRE, row)
    row.click()
    assert page.chosen_lines() == [line_of(page.record, 'name="conv1"')]


def test_an_op_of_an_early_stage_leads_to_the_kernel_that_runs_it(page: Page) -> None:
    pools = [n for n in page.all(".before .node.op") if n.text.startswith("max_pool")]
    page.script(CENTRE, pools[0])
    pools[0].click()
    assert page.chosen_code().startswith(f"def {CONV2}(")


def test_stages_are_stepped_through_and_chosen(page: Page) -> None:
    stages = [s["name"] for s in page.record["stages"]]

    def shown() -> list[str]:
        return [side.get_attribute("data-stage") for side in page.all(".side")]

    page.press("#next")
    first = shown()
    assert first[0] == "trace"
    page.press("#next")
    assert stages.index(shown()[1]) > stages.index(first[1])
    page.press("#previous")
    assert shown() == first
    page.press("#whole")
    assert shown() == ["trace", last_kernels(page.record)]
    page.press("#changed")
    select = page.one("#after")
    options = [o.text.split()[-1] for o in select.find_elements("tag name", "option")]
    assert options == stages
    select.find_elements("tag name", "option")[options.index("fuse-conv")].click()
    assert shown() == ["trace", "fuse-conv"]
    fused = page.texts(".after .box.kernel .node.title .name")
    assert len(fused) == 4


def test_one_pass_alone_lists_what_it_changed(page: Page) -> None:
    index = [s["name"] for s in page.record["stages"]].index("fuse-conv")
    page.script("showStages(arguments[0] - 1, arguments[0])", index)
    page.press("#changes summary")
    rows = page.texts("#changes li")
    assert len(rows) == len(page.record["stages"][index]["changes"])
    assert any(row.startswith("fused conv2d") for row in rows)
    assert page.all(".box.same"), "what stayed is in the background"


def test_refusals_are_listed_with_their_reasons(
    browser: Any, tmp_path: Path, made: Record
) -> None:
    record = json.loads(json.dumps(made))
    for stage in record["stages"]:
        stage["refusals"] = []
    stage = next(s for s in record["stages"] if s["name"] == "fuse-conv")
    stage["refusals"] = [["conv9", "its result has two readers", [0]]]
    page = Page(browser, tmp_path / "report.html", record)
    page.press("#refusals summary")
    assert "conv9: its result has two readers" in page.one("#refusals li").text


def test_memory_has_a_rectangle_for_each_buffer_that_says_its_name(page: Page) -> None:
    page.press("#tab-memory")
    buffers = page.record["memory"]["buffers"]
    assert len(page.all("rect.buffer")) == len(buffers)
    largest = max(buffers, key=lambda b: b["size"] * (b["last"] - b["first"] + 1))
    rect = page.one(f'rect.buffer[aria-label^="{largest["name"]}, "]')
    tip = page.point(rect)
    assert tip.startswith(largest["name"])
    assert largest["type"] in tip
    page.press("#stretch")
    heights = page.script(
        "return [...document.querySelectorAll('rect.buffer')]"
        ".map((r) => r.getBoundingClientRect().height)"
    )
    assert len(heights) == len(buffers)
    assert min(heights) > 0.5


def test_the_roofline_has_a_dot_for_each_kernel(page: Page) -> None:
    page.press("#tab-kernels")
    dots = page.all("circle.dot")
    assert len(dots) == len(page.record["kernels"])
    assert not page.all("circle.dot.predicted")
    assert len(page.all(".roof")) == 1
    page.script("document.querySelector('circle.dot[data-kernel=\"2\"]').focus()")
    assert CONV2 in page.one("#tip").text
    page.script(
        "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))",
        page.one('circle.dot[data-kernel="2"]'),
    )
    assert page.chosen_code().startswith(f"def {CONV2}(")
    assert page.one("tbody tr.chosen td.name").text == CONV2


def test_labels_of_the_roofline_do_not_lie_on_each_other(page: Page) -> None:
    page.press("#tab-kernels")
    boxes = page.script(
        "return [...document.querySelectorAll('.roofline text.name')].map((t) => {"
        "const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]"
        "})"
    )
    assert len(boxes) >= 5
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            apart = other[0] >= right or other[2] <= left
            assert apart or other[1] >= bottom - 2 or other[3] <= top + 2


def test_what_was_not_measured_is_drawn_as_predicted(
    browser: Any, tmp_path: Path, made: Record
) -> None:
    record = json.loads(json.dumps(made))
    record["peaks"] = record["head"]["step_seconds"] = None
    for kernel in record["kernels"]:
        kernel["measured"] = None
    page = Page(browser, tmp_path / "report.html", record)
    page.press("#tab-kernels")
    assert len(page.all("circle.dot.predicted")) == len(record["kernels"])
    assert not page.all(".roof")
    assert complaints(browser) == []


def test_the_table_is_sorted_by_what_is_pressed(page: Page) -> None:
    page.press("#tab-kernels")
    shares = [k["measured"] for k in page.record["kernels"]]

    def order() -> list[int]:
        rows = page.all("#table tbody tr")
        return [int(row.get_attribute("data-kernel")) for row in rows]

    assert order() == sorted(range(len(shares)), key=lambda i: -shares[i])
    page.press("th.share button")
    assert order() == sorted(range(len(shares)), key=lambda i: shares[i])
    assert page.one("th.share").get_attribute("aria-sort") == "ascending"
    page.press("th.name button")
    names = page.texts("#table tbody td.name")
    assert names == sorted(names)


def test_the_keyboard_alone_gets_everywhere(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.script("document.querySelector('.after .node.title').focus()")
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert page.chosen_code().startswith("def ")
    for key, view in zip("mkg", ("memory", "kernels", "graph"), strict=True):
        page.one("body").send_keys(key)
        assert page.one(f"#tab-{view}").get_attribute("aria-selected") == "true"
        assert page.one(f"#{view}").is_displayed()


def test_the_address_leads_back_to_the_view_and_the_kernel(page: Page) -> None:
    page.kernel(CONV2).click()
    page.press("#tab-memory")
    address = page.browser.current_url
    page.browser.get("about:blank")
    page.browser.get(address)
    assert page.one("#memory").is_displayed()
    assert page.chosen_code().startswith(f"def {CONV2}(")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [LAPTOP, (1024, 700), (1920, 1080)])
def test_nothing_hangs_over_the_edge(
    page: Page, scheme: str, size: tuple[int, int]
) -> None:
    resize(page.browser, *size)
    prefer(page.browser, scheme)
    try:
        for view in VIEWS:
            page.press(f"#tab-{view}")
            wide, high = page.script(
                "const d = document.documentElement;"
                "return [d.scrollWidth - innerWidth, d.scrollHeight - innerHeight]"
            )
            assert (wide, high) == (0, 0), view
            if view == "graph" and size != (1024, 700):
                hidden = (
                    "const c = byId('canvas'); return c.scrollWidth - c.clientWidth"
                )
                assert page.script(hidden) <= 0, "both sides are in sight"
    finally:
        resize(page.browser, *LAPTOP)


def test_text_can_be_read_in_both_schemes(page: Page) -> None:
    """The contrast of ink and background is above that of WCAG AA, 4.5 to 1."""
    for scheme in SCHEMES:
        prefer(page.browser, scheme)
        for selector in (".after .node.title", ".after .node.op .shape", "#what"):
            assert page.script(CONTRAST, page.all(selector)[0]) > 4.5, selector


CONTRAST = """
const shown = document.createElement("canvas").getContext("2d");
const light = (colour) => {
  shown.clearRect(0, 0, 1, 1); shown.fillStyle = colour; shown.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...shown.getImageData(0, 0, 1, 1).data].map((v) => {
    v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
let behind = arguments[0];
const empty = (at) => getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)";
while (empty(behind)) behind = behind.parentElement;
const ink = light(getComputedStyle(arguments[0]).color);
const paper = light(getComputedStyle(behind).backgroundColor);
return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
"""


def hostile(value: Any, text: str) -> Any:
    """A record with ``text`` at the end of every string that a user can choose."""
    if isinstance(value, dict):
        return {
            k: v if k in {"stage", "kind", "lanes", "op"} else hostile(v, text)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [hostile(v, text) for v in value]
    return value + text if isinstance(value, str) else value


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>window.hacked = 1</script>",
        "<img src=x onerror='window.hacked = 1'>",
        '"><b onclick="window.hacked = 1">',
    ],
)
def test_hostile_names_are_shown_and_do_nothing(
    browser: Any, tmp_path: Path, made: Record, text: str
) -> None:
    page = Page(browser, tmp_path / "report.html", hostile(made, text))
    assert page.script("return document.body.dataset.ready") == "yes"
    for view in VIEWS:
        page.press(f"#tab-{view}")
    page.press("#tab-graph")
    tip = page.point(page.all(".before .node.op")[0])
    assert text in tip
    assert text in page.one("h1").get_attribute("textContent")
    assert page.script("return window.hacked") is None
    assert page.all("img, b[onclick]") == []
    assert complaints(browser) == []
    assert requests(browser)[-1] == page.address
