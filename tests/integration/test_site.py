"""scripts/site: Debian's mkdocs makes a site of all documents without a warning, with search."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from lab.site import place_of, rewritten

ROOT: Final = Path(__file__).parents[2]


def test_the_site_is_built_without_a_warning() -> None:
    """Each document is a page, each link of a page leads to a file, and a word is found by search."""
    assert shutil.which("mkdocs"), "apt-get install --no-install-recommends mkdocs, as .ci/run does"
    done = subprocess.run([ROOT / "scripts/site"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    site = ROOT / "build/site/html"
    pages = {page.relative_to(site) for page in site.rglob("*.html")}
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    wanted = {place_of(path.relative_to(ROOT)).with_suffix(".html") for path in documents}
    assert {path.with_stem("index") if path.stem == "README" else path for path in wanted} <= pages
    lost = []
    for page in pages - {Path("404.html")}:  # its links are the server's
        for link in re.findall(r'href="([^"#]+)', (site / page).read_text()):
            if "://" not in link and not link.startswith("mailto:"):
                lost += [] if (site / page.parent / link).exists() else [f"{page}: {link}"]
    assert lost == []
    index = json.loads((site / "search/search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"] if "proxy" in entry["text"]}
    assert "operating.html" in found


def test_links_are_those_of_the_site() -> None:
    """From the root into docs, from docs to the root, to a file of the source; others stay."""
    text, linked = rewritten("[a](docs/audit.md#x) [b](https://x/y.md) [c](#z)", Path("README.md"))
    assert text == "[a](audit.md#x) [b](https://x/y.md) [c](#z)"
    assert linked == {Path("docs/audit.md")}
    written = "[a](../../README.md) [b](../examples/app.py) [c](../adr)"
    text, _ = rewritten(written, Path("docs/runbooks/barbican-away.md"))
    assert text == "[a](../README.md) [b](../examples/app.py) [c](../adr/README.md)"
    assert (
        rewritten("[a](packaging/man/vps-secrets.1)", Path("README.md"))[0]
        == "[a](files/packaging/man/vps-secrets.1)"
    )
