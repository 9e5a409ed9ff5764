"""The page in a browser: what a person sees, points at and chooses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import complaints, requests
from report_page import CENTRE, VIEWS, Page

from convc.report.data import Record

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

    page.press("#next")
    first = page.stages()
    assert first[0] == "trace"
    page.press("#next")
    assert stages.index(page.stages()[1]) > stages.index(first[1])
    page.press("#previous")
    assert page.stages() == first
    page.press("#whole")
    assert page.stages() == ["trace", last_kernels(page.record)]
    page.press("#changed")
    select = page.one("#after")
    options = [o.text.split()[-1] for o in select.find_elements("tag name", "option")]
    assert options == stages
    select.find_elements("tag name", "option")[options.index("fuse-conv")].click()
    assert page.stages() == ["trace", "fuse-conv"]
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
    browser: Any, tmp_path: Path, four_conv_record: Record
) -> None:
    record = json.loads(json.dumps(four_conv_record))
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


def test_dots_that_are_one_have_one_name(page: Page) -> None:
    page.press("#tab-kernels")
    page.script(
        "for (const k of R.kernels) [k.flops, k.nbytes, k.measured] = [1e9, 1e7, 0.1];"
        "drawRoofline()"
    )
    names = page.texts(".roofline text.name")
    assert len(names) == 1
    assert names[0].endswith(f" and {len(page.record['kernels']) - 1} more")


def test_names_of_buffers_stay_inside_them(page: Page) -> None:
    page.press("#tab-memory")
    page.script("for (const b of R.memory.buffers) b.name = 'WWWWWWWW'; drawMemory()")
    names, rects = (
        page.script(
            "return [...document.querySelectorAll(arguments[0])].map((item) => {"
            "const b = item.getBoundingClientRect();"
            "return [b.left, b.right, (b.top + b.bottom) / 2]})",
            selector,
        )
        for selector in (".memory text.inside", "rect.buffer")
    )
    assert len(names) >= 3
    for left, right, middle in names:
        assert any(
            at < left and right < end and abs(y - middle) < 4 for at, end, y in rects
        )


def test_a_line_has_the_colour_of_its_kernels(page: Page) -> None:
    """The last line flattens, which no kernel does, and is a layer that many are."""
    hue = "return arguments[0].style.getPropertyValue('--hue')"
    line = page.all("#yours-code .row.used")[-1]
    row = page.all("#made-code .row")[page.record["kernels"][5]["first"] - 1]
    assert page.record["nodes"][page.record["kernels"][5]["node"]]["title"].startswith(
        "logits"
    )
    assert page.script(hue, line) == page.script(hue, row)


def test_lines_keep_their_indentation_beside_large_numbers(page: Page) -> None:
    lefts = page.script(
        "linesToKernels.set([...linesToKernels.keys()][0], Array(117).fill(0));"
        "drawYours();"
        "return [...document.querySelectorAll('#yours-code .row .text')]"
        ".map((text) => text.getBoundingClientRect().left)"
    )
    assert "117" in page.texts("#yours-code .count")
    assert len(set(lefts)) == 1


def test_the_sums_cover_what_scrolls_below_them(page: Page) -> None:
    page.press("#tab-kernels")
    style = "return getComputedStyle(arguments[0])"
    for cell in page.all("#table tfoot td"):
        assert page.script(f"{style}.backgroundImage", cell) == "none"
        assert not page.script(f"{style}.backgroundColor", cell).startswith("rgba")


def test_what_was_not_measured_is_drawn_as_predicted(
    browser: Any, tmp_path: Path, four_conv_record: Record
) -> None:
    record = json.loads(json.dumps(four_conv_record))
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
    browser: Any, tmp_path: Path, four_conv_record: Record, text: str
) -> None:
    page = Page(browser, tmp_path / "report.html", hostile(four_conv_record, text))
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
