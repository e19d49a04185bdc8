"""The import table of docs/architecture.md: downwards only, and serve never gets what only fetch may have."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "core": {"common", "core"},
    "config": {"common", "core", "config"},
    "fetch": {"common", "core", "config", "fetch"},
    "serve": {"common", "core", "config", "serve"},
    "cli": {"common", "core", "config", "cli"},
}
THIRD_PARTY = {
    "core": set[str](),
    "config": set[str](),
    "cli": set[str](),
    "serve": {"sdnotify"},
}


def part_of(module: str) -> str:
    """Return the part of the agent that a module belongs to."""
    name = module.removeprefix("agent.").partition(".")[0]
    return "config" if name.startswith("config") else name


def imports() -> list[tuple[str, str]]:
    """Return (module, imported module) for every import statement of the agent, wherever it stands."""
    found = []
    for path in sorted((ROOT / "agent").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module} has a relative import"
                found += [(module, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_imports_go_downwards_only() -> None:
    """Core imports core; fetch and serve never each other."""
    edges = {
        (part_of(module), part_of(imported))
        for module, imported in imports()
        if module != "agent" and imported.startswith("agent.") and imported != "agent.__version__"
    }
    wrong = [edge for edge in edges if edge[1] not in MAY_IMPORT[edge[0]]]
    assert wrong == []
    assert len(edges) >= 7


def test_each_part_has_its_own_libraries_only() -> None:
    """core, configuration and the command are standard library; serve has no cloud library."""
    wrong = [
        (module, imported)
        for module, imported in imports()
        if part_of(module) in THIRD_PARTY
        and (top := imported.partition(".")[0]) not in sys.stdlib_module_names | {"agent", "common"}
        and top not in THIRD_PARTY[part_of(module)]
    ]
    assert wrong == []


def test_serve_never_loads_a_cloud_library() -> None:
    """Nor TLS, nor does anything that it imports: asked of a real interpreter."""
    program = (
        "import sys, agent.serve.__main__; print(*[name for name, loaded in sys.modules.items() if loaded])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "agent.serve.http.server" in loaded
    forbidden = {"keystoneauth1", "barbicanclient", "requests", "urllib3", "agent.fetch"}
    forbidden |= {"ssl", "_ssl", "_hashlib", "email", "http.client", "uuid"}
    assert forbidden.isdisjoint(loaded)
