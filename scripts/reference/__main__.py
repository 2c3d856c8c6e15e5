"""`python -m scripts.reference [FOLDER]`: writes all pages, by default into docs/reference."""

from __future__ import annotations

import argparse
from pathlib import Path

from .pages import PAGES, ROOT


def main() -> None:
    """Writes each page and says which ones changed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.reference", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "reference")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, render in PAGES.items():
        path = folder / name
        text = render()
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{'written' if changed else 'as before':<10} {name}")


if __name__ == "__main__":
    main()
