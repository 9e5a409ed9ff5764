"""``python -m convc``: the command line, also from a bare checkout."""

from convc.cli import main

if __name__ == "__main__":
    main(prog_name="convc")
