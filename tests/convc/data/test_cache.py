"""The cache lies where the user says, else where the system keeps such things."""

from pathlib import Path

import pooch
import pytest

from convc.data.cache import user_cache


def test_a_named_folder_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", "~/kept")
    assert user_cache() == Path.home() / "kept"


def test_the_system_names_one_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda name: f"/somewhere/{name}")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("CONVC_CACHE_DIR")
        else:
            monkeypatch.setenv("CONVC_CACHE_DIR", unset)
        assert user_cache() == Path("/somewhere/convc")
