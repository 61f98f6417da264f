"""What type checkers have to infer for the public names: checked by mypy and pyright, never run."""
