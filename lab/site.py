"""``python -m lab.site FOLDER``: the documents as mkdocs wants them, in one folder, for scripts/site.

In the repository README.md and SECURITY.md link into docs/, and documents link to files of the source. Here
all documents lie in one tree: the root's beside those of docs/, other files below ``files``. Links are
rewritten; nothing else is.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FILES: Final = Path("files")
_LINK: Final = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_ELSEWHERE: Final = ("http://", "https://", "mailto:")


def place_of(path: Path) -> Path:
    """Return where a file of the repository is on the site; both are relative."""
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    return path if path.parent == Path() and path.suffix == ".md" else FILES / path


def rewritten(text: str, document: Path) -> tuple[str, set[Path]]:
    """Return a document with its links as they are on the site, and the files that it links to."""
    linked: set[Path] = set()

    def link(match: re.Match[str]) -> str:
        if match[2].startswith(_ELSEWHERE):
            return match[0]
        target = Path(os.path.normpath(document.parent / match[2]))
        if (ROOT / target).is_dir():
            target /= "README.md"
        linked.add(target)
        way = os.path.relpath(place_of(target), place_of(document).parent)
        return f"{match[1]}{way}{match[3]}"

    return _LINK.sub(link, text), linked


def stage(folder: Path) -> int:
    """Fill the folder, and return how many documents there are."""
    shutil.rmtree(folder, ignore_errors=True)
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    files: set[Path] = set()
    for path in documents:
        document = path.relative_to(ROOT)
        text, linked = rewritten(path.read_text(), document)
        files |= linked
        target = folder / place_of(document)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for file in files - {path.relative_to(ROOT) for path in documents}:
        target = folder / place_of(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target)
    return len(documents)


if __name__ == "__main__":
    print(f"site: {stage(Path(sys.argv[1]))} documents")
