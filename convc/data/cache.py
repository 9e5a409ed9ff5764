"""The user's cache folder: what convc can fetch or measure again."""

import os
from pathlib import Path


def user_cache() -> Path:
    """``CONVC_CACHE_DIR``, else the system's folder for convc; it need not exist."""
    if os.environ.get("CONVC_CACHE_DIR"):
        return Path(os.environ["CONVC_CACHE_DIR"]).expanduser()
    import pooch

    return Path(pooch.os_cache("convc"))
