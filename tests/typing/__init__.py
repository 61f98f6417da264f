"""What type checkers are to make of the public names: checked by mypy and pyright, never run."""
