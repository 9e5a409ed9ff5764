"""``python -m convc``: the command line, also from a bare checkout."""

import sys

try:
    from convc.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; `pip install .` in the checkout brings what convc needs")

if __name__ == "__main__":
    main(prog_name="convc")
