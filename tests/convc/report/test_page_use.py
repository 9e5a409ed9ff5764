"""The page is used by mouse, keyboard, address and printer, on any screen."""

import pytest
from browser import LAPTOP, SCHEMES, complaints, prefer, resize
from report_page import VIEWS, Page

CONV2 = "conv2_conv_bias_pool_relu"
READ = (
    ".after .node.title",
    ".after .node.op .shape",
    "#what",
    "#yours-code .number",
    "#made-code .py-comment",
    "#made-code .py-number",
    "#made-code .py-text",
)


def test_the_keyboard_alone_gets_everywhere(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.script("document.querySelector('.after .node.title').focus()")
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    assert page.chosen_code().startswith("def ")
    for key, view in zip("mkg", ("memory", "kernels", "graph"), strict=True):
        page.one("body").send_keys(key)
        assert page.one(f"#tab-{view}").get_attribute("aria-selected") == "true"
        assert page.one(f"#{view}").is_displayed()


def test_arrows_to_the_side_lead_from_one_stage_to_the_other(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.script("document.querySelector('.before .node').focus()")
    for _ in range(4):
        page.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.script("return Boolean(document.activeElement.closest('.after'))")
    for _ in range(4):
        page.browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert page.script("return Boolean(document.activeElement.closest('.before'))")


def test_the_focus_stays_where_it_is_when_the_graph_is_drawn_again(page: Page) -> None:
    focused = "return document.activeElement.getAttribute('aria-label')"
    page.script("document.querySelectorAll('.after .node.title')[2].focus()")
    label = page.script(focused)
    page.browser.switch_to.active_element.send_keys("+")
    assert page.script("return view.zoom") > 1
    assert page.script(focused) == label == f"kernel {CONV2}"


def test_the_address_leads_back_to_the_view_the_kernel_and_the_stages(
    page: Page,
) -> None:
    names = [s["name"] for s in page.record["stages"]]
    at = names.index("differentiate")
    page.script(f"showStages({at - 1}, {at})")
    page.named(".after .node.op", "conv2d_filter_grad")[0].click()
    code = page.chosen_code()
    page.press("#tab-memory")
    address = page.browser.current_url.partition("#")[2]
    page.open("#" + address)
    assert page.one("#memory").is_displayed()
    assert page.chosen_code() == code
    page.press("#tab-graph")
    assert page.stages() == names[at - 1 : at + 1]
    page.script("location.hash = '#kernels//1..2'")
    assert page.one("#kernels").is_displayed()
    page.press("#tab-graph")
    assert page.stages() == names[1:3]


@pytest.mark.parametrize("address", ["#graph/%E0%A4%A", "#x/y/99..-1", "#//..", "#"])
def test_an_address_of_nothing_opens_the_page_as_ever(page: Page, address: str) -> None:
    page.open(address)
    assert page.script("return document.body.dataset.ready") == "yes"
    assert page.one("#graph").is_displayed()
    assert page.stages()[0] == "trace"
    assert complaints(page.browser) == []


def test_a_kernel_chosen_by_its_line_comes_into_sight(page: Page) -> None:
    box = "document.querySelector('.box.kernel.chosen').getBoundingClientRect()"
    canvas = "byId('canvas').getBoundingClientRect()"
    page.all("#yours-code .row[role=button]")[-1].click()
    seen = f"return {box}.top > {canvas}.top && {box}.top < {canvas}.bottom"
    assert page.script(seen)
    page.script("byId('canvas').scrollTop = 0")
    page.script("drawGraph()")
    assert page.script("return byId('canvas').scrollTop") == 0, "once"


def test_one_list_is_open_at_a_time_and_escape_closes_it(page: Page) -> None:
    page.script("fillNote('refusals', '1 refused', [el('li', '', 'no')])")
    for name, other in (("changes", "refusals"), ("refusals", "changes")):
        page.press(f"#{name} summary")
        assert page.one(f"#{name} ul").is_displayed()
        assert not page.one(f"#{other} ul").is_displayed()
    page.one("body").send_keys("\ue00c")
    assert not page.all(".note[open]")


def test_the_code_is_closed_for_room_and_opens_when_a_kernel_is_chosen(
    page: Page,
) -> None:
    from selenium.webdriver.common.keys import Keys

    before = page.one("#dock").rect["height"]
    page.one("#handle").send_keys(Keys.ENTER)
    assert page.one("#dock").rect["height"] < 40
    page.script("choose(2)")
    assert page.one("#dock").rect["height"] == before


def test_what_is_printed_is_the_whole_view(page: Page) -> None:
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        whole = (
            "const at = document.querySelector(arguments[0]);"
            "const d = document.documentElement;"
            "return [getComputedStyle(at).overflowY, d.scrollHeight > innerHeight,"
            " at.scrollHeight <= at.clientHeight + 1]"
        )
        assert page.script(whole, "#canvas") == ["visible", True, True]
        assert not page.one("#dock").is_displayed()
        page.script("showView('code')")
        assert page.script(whole, "#made-code") == ["visible", True, True]
        assert not page.one("#graph").is_displayed()
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_no_text_is_smaller_than_can_be_read(page: Page) -> None:
    small = """
    const found = new Set();
    for (const item of document.querySelectorAll("body *:not(script):not(noscript)")) {
      const own = [...item.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
      const size = parseFloat(getComputedStyle(item).fontSize);
      if (own && size < 11) found.add(`${item.className.baseVal ?? item.className}`);
    }
    return [...found];
    """
    for view in VIEWS:
        page.press(f"#tab-{view}")
        assert page.script(small) == [], view
    page.press("#tab-graph")
    page.press("#fit")
    assert page.script("return view.zoom") >= 0.7


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
        for selector in READ:
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
