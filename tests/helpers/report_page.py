"""The page of `convc report` in a browser, asked in CSS selectors."""

from pathlib import Path
from typing import Any

from browser import complaints, requests

from convc.report.data import Record
from convc.report.render import render

VIEWS = ("graph", "memory", "kernels", "code")
CENTRE = "arguments[0].scrollIntoView({block: 'center'})"


class Page:
    """The page of a record, written to a file and opened."""

    def __init__(self, browser: Any, file: Path, record: Record) -> None:
        self.browser = browser
        self.record = record
        self.address = file.as_uri()
        file.write_text(render(record), "utf-8")
        complaints(browser)
        requests(browser)
        self.open()

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

    def named(self, selector: str, name: str) -> list[Any]:
        """The nodes of that name."""
        return [
            item
            for item in self.all(selector)
            if item.find_element("css selector", ".name").text == name
        ]

    def kernel(self, title: str) -> Any:
        """The kernel of that name on the right."""
        (found,) = self.named(".after .node.title", title)
        return found

    def stages(self) -> list[str]:
        """The two stages of the graph that are shown."""
        return [str(s.get_attribute("data-stage")) for s in self.all(".side")]

    def chosen_code(self) -> str:
        return "\n".join(self.texts("#made-code .row.chosen .text"))

    def chosen_lines(self) -> list[int]:
        return [int(t) for t in self.texts("#yours-code .row.chosen .number")]

    def open(self, address: str = "") -> None:
        """Load the page again, with what is behind the # of its address."""
        self.browser.get("about:blank")
        self.browser.get(self.address + address)
