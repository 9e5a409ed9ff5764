"""A table of URLs in place of the network, for tests of downloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import pooch
import pytest

Served = dict[str, bytes]
HOSTS = ("https://one.invalid/", "https://two.invalid/")
"""Mirrors that do not exist."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Served], list[str]]:
    """Replace the network by a table of URLs; the fetched ones are listed."""

    def install(served: Served) -> list[str]:
        fetched: list[str] = []

        class Downloader:
            def __init__(self, progressbar: Any = None, **_: object) -> None:
                self.bar = progressbar

            def __call__(
                self,
                url: str,
                file: BinaryIO | None,
                pooch: None,
                check_only: bool = False,
            ) -> bool | None:
                if check_only:
                    if not any(known.startswith(url[:15]) for known in served):
                        raise ConnectionError("no route to host")
                    return url in served
                assert file is not None
                fetched.append(url)
                if url not in served:
                    raise ConnectionError("went away")
                self.bar.total = len(served[url])
                for at in range(0, len(served[url]), 1 << 16):
                    file.write(served[url][at : at + (1 << 16)])
                    self.bar.update(1 << 16)
                self.bar.reset()
                self.bar.update(self.bar.total)
                self.bar.close()
                return None

        monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
        return fetched

    return install
