"""docs/compliance.md and docs/incident-response.md: each row names what shows it, and that exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.unit.test_threat_model import REFERENCE, known_in

ROOT: Final = Path(__file__).parents[2]
ROWS: Final = re.findall(
    r"^\| (?!topic|safeguard|criterion|control|article|requirement|---)(.*?) \| (.*?)\| (.*) \|$",
    (ROOT / "docs/compliance.md").read_text(),
    re.MULTILINE,
)
STANDARDS: Final = ("OWASP", "NIST SP 800-57", "CIS", "SOC 2", "ISO/IEC 27001", "GDPR", "PCI DSS")
PARTS: Final = ("See", "Contain", "Rotate", "Restore", "Prove")


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_each_row_has_what_shows_it(row: tuple[str, str, str]) -> None:
    """A test that exists, a document, or "not ours"; links are followed in test_documents.py."""
    shown = row[2]
    references = REFERENCE.findall(shown)
    assert [name for path, name in references if name not in known_in(path)] == []
    assert references or "](" in shown or shown.startswith("not ours: ")


def test_each_standard_is_there() -> None:
    """With a part that is not ours: nobody is certified by software."""
    sections = re.split(r"^## ", (ROOT / "docs/compliance.md").read_text(), flags=re.MULTILINE)[1:]
    for standard in STANDARDS:
        (section,) = [each for each in sections if each.startswith(standard)]
        assert "| not ours: " in section, standard
    assert len(ROWS) > 50


def test_each_kind_of_compromise_says_all_five() -> None:
    """What one sees, how it is contained, what is rotated and restored, and what proves that it is over."""
    text = (ROOT / "docs/incident-response.md").read_text()
    kinds = re.split(r"^## ", text.partition("\n## Kinds")[2], flags=re.MULTILINE)[0]
    sections = re.split(r"^### ", kinds, flags=re.MULTILINE)[1:]
    assert len(sections) >= 9
    for section in sections:
        missing = [part for part in PARTS if f"**{part}.**" not in section]
        assert missing == [], section.splitlines()[0]
