"""The import table of docs/architecture.md: downwards only, no circles; what decides does nothing else.

Imports for type checking count as imports: who needs a module's types depends on it as much.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("agent", "common", "deployer", "lab", "tests")

AGENT: Final = {"common", "agent", "agent.core", "agent.config"}
WINGS: Final = {f"agent.serve.{wing}" for wing in ("host", "http", "store", "state", "sync", "endpoints")}
DEPLOYER: Final = {
    "common",
    *(
        "deployer",
        "deployer.core",
        "deployer.config",
        "deployer.cloud",
        "deployer.kinds",
        "deployer.database",
    ),
}
DEPLOYER_WINGS: Final = DEPLOYER | {
    f"deployer.{wing}" for wing in ("hook", "registrar", "backup", "worker", "api", "cli")
}
EVERYTHING: Final = {
    "common.sealing",
    "agent.fetch",
    "agent.identity",
    "agent.serve",
    "agent.run",
    "agent.cli",
    "agent.renew",
}
# Each part (a module belongs to the longest name that fits) and the parts that it may import, besides itself.
MAY_IMPORT: Final[dict[str, set[str]]] = {
    "common": set(),
    # not for serve, nor for any command at its start: it needs cryptography, and whoever has it has a key
    "common.sealing": {"common"},
    "agent": {"common"},
    "agent.core": {"common"},
    "agent.config": {"common", "agent.core"},
    "agent.fetch": AGENT | {"common.sealing"},
    "agent.identity": AGENT | {"agent.fetch", "common.sealing"},
    "agent.serve.host": AGENT,
    "agent.serve.http": AGENT | {"agent.serve.host"},
    "agent.serve.store": AGENT | {"agent.serve.host"},
    "agent.serve.state": AGENT | {"agent.serve.http", "agent.serve.store"},
    "agent.serve.sync": AGENT | {"agent.serve.host", "agent.serve.state"},
    "agent.serve.endpoints": AGENT | WINGS - {"agent.serve.endpoints", "agent.serve.store"},
    "agent.serve": AGENT | WINGS,
    # the only part of the command through which values go
    "agent.run": {"common"},
    "agent.cli": {"common", "common.sealing", *AGENT, "agent.identity", "agent.run"},
    "agent.renew": AGENT | {"agent.identity", "agent.cli"},
    "deployer": {"common"},
    "deployer.core": {"common"},
    "deployer.config": {"common", "deployer.core"},
    "deployer.cloud": {"common", "deployer.core"},
    # runs what an operator wrote: it has no way to the cloud, the database or a kind
    "deployer.hook": {"common", "deployer", "deployer.config"},
    "deployer.kinds": {"common", "deployer.core", "deployer.config", "deployer.hook"},
    "deployer.database": {"common", "deployer.core"},
    "deployer.registrar": {"common", "deployer", "deployer.core", "deployer.config", "deployer.cloud"},
    "deployer.backup": DEPLOYER - {"deployer.kinds"},
    "deployer.worker": DEPLOYER | {"common.sealing", "deployer.backup"},
    # the api reaches worker and registrar over their sockets only: it has no way to the cloud, and no value
    "deployer.api": {"common", "deployer", "deployer.core", "deployer.config", "deployer.database"},
    "deployer.cli": DEPLOYER | {f"deployer.{wing}" for wing in ("backup", "worker", "registrar", "api")},
    "lab": AGENT | WINGS | EVERYTHING | DEPLOYER_WINGS,
    "tests": AGENT | WINGS | EVERYTHING | DEPLOYER_WINGS | {"lab"},
}
# What each part may import from outside, besides the standard library; lab and tests: whatever they need.
LIBRARIES: Final[dict[str, set[str]]] = {
    "common": set(),
    "common.sealing": {"cryptography"},
    "agent": set(),
    "agent.core": set(),
    "agent.config": set(),
    "agent.fetch": {"keystoneauth1", "barbicanclient", "requests", "urllib3", "yaml"},
    "agent.identity": {"requests", "urllib3"},
    "agent.serve.host": set(),
    "agent.serve.http": set(),
    "agent.serve.store": set(),
    "agent.serve.state": set(),
    "agent.serve.sync": set(),
    "agent.serve.endpoints": set(),
    "agent.serve": set(),
    "agent.cli": {"tomlkit"},
    "agent.run": set(),
    "agent.renew": set(),
    "deployer": set(),
    "deployer.core": set(),
    "deployer.config": set(),
    "deployer.cloud": {"keystoneauth1", "requests"},
    "deployer.hook": set(),
    "deployer.kinds": {"cryptography", "psycopg2"},
    "deployer.database": {"sqlalchemy", "alembic"},
    "deployer.registrar": {"keystoneauth1"},
    "deployer.backup": {"cryptography", "keystoneauth1", "sqlalchemy"},
    "deployer.worker": {"keystoneauth1", "requests", "sqlalchemy"},
    "deployer.api": {
        "aiohttp",
        "cryptography",
        "jinja2",
        "jsonschema",
        "markupsafe",
        "prometheus_client",
        "sqlalchemy",
    },
    "deployer.cli": {"sqlalchemy"},
}
# What decides does not act: these parts have no clock, no socket, no thread, no log, no randomness, no file.
PURE: Final = ("common", "agent.core", "deployer.core")
# fmt: off
PURE_LIBRARY: Final = {
    "__future__", "base64", "binascii", "bisect", "collections", "contextlib", "dataclasses",
    "datetime", "difflib", "enum", "fnmatch", "functools", "hashlib", "heapq", "hmac", "ipaddress",
    "itertools", "json", "math", "operator", "pathlib", "re", "string", "struct", "tomllib",
    "types", "typing", "unicodedata", "urllib.parse",
}
IMPURE_CALLS: Final = {"open", "print", "input", "exec", "eval", "__import__"}
IMPURE_METHODS: Final = {
    "now", "utcnow", "today",  # the clock of datetime
    # what a pathlib.Path does beyond words
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir",
    "is_socket", "is_symlink", "stat", "lstat", "resolve", "absolute", "expanduser", "cwd", "home",
    "iterdir", "glob", "rglob", "mkdir", "touch", "unlink", "rmdir", "rename", "chmod",
}
# fmt: on


class Module(NamedTuple):
    """What is asked of a module; not its tree: to keep all of them costs more than all else here."""

    imports: list[str]
    impurities: list[str]


@cache
def modules() -> dict[str, Module]:
    """Return every module of ours by its name; a package is its ``__init__``."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text())
            found[name] = Module(
                imported_by(name, tree), impurities(name, tree) if part_of(name) in PURE else []
            )
    return found


def part_of(name: str) -> str:
    """Return the part that a module, or what stands in it, belongs to."""
    inside = [part for part in MAY_IMPORT if f"{name}.".startswith(f"{part}.")]
    assert inside, f"{name} belongs to no part"
    part = max(inside, key=len)
    assert part != "agent" or name in {"agent", "agent.__version__"}, f"{name} belongs to no part"
    return part


def imported_by(name: str, tree: ast.Module) -> list[str]:
    """Return every name that a module imports, wherever the statement stands."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def is_ours(imported: str) -> bool:
    """Tell our own modules from libraries."""
    return imported.partition(".")[0] in FOLDERS


def graph(imports: Mapping[str, list[str]]) -> dict[str, set[str]]:
    """Return, for each module, the modules of ours that it imports: of a name in a module, the module."""
    return {
        name: {
            imported if imported in imports else imported.rpartition(".")[0]
            for imported in named
            if is_ours(imported)
        }
        - {name}
        for name, named in imports.items()
    }


def circles(edges: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Return each set of modules of which every one needs, in the end, every other."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        ahead = list(edges[start])
        while ahead:
            module = ahead.pop()
            if module not in seen:
                seen.add(module)
                ahead += edges.get(module, ())
        reached[start] = seen
    found: list[set[str]] = []
    for start, seen in reached.items():
        circle = {module for module in seen if start in reached.get(module, ())}
        if circle and circle not in found:
            found.append(circle)
    return found


def impurities(name: str, tree: ast.Module) -> list[str]:
    """Return what a pure module may not do: act, or depend on the moment, the machine or chance."""
    found = [
        f"{name} imports {imported}"
        for imported in imported_by(name, tree)
        if not is_ours(imported)
        and PURE_LIBRARY.isdisjoint({imported, imported.partition(".")[0], imported.rpartition(".")[0]})
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{name} calls {node.func.id}")
        elif isinstance(node, ast.Attribute) and node.attr in IMPURE_METHODS:
            found.append(f"{name} uses .{node.attr}")
    return found


def test_imports_go_downwards_only() -> None:
    """Core imports common; fetch and serve never each other; the agent and the deployer neither."""
    edges = {
        (part_of(module), part_of(imported), f"{module} imports {imported}")
        for module, its in modules().items()
        for imported in its.imports
        if is_ours(imported)
    }
    wrong = [what for part, needed, what in edges if needed != part and needed not in MAY_IMPORT[part]]
    assert wrong == []
    assert len(edges) > 500  # it looked at something


def test_the_table_permits_no_circle_of_parts() -> None:
    """A table that could hide one would hold nothing."""
    assert circles(MAY_IMPORT) == []


def test_no_two_modules_need_each_other() -> None:
    """Not by a third, nor for their types."""
    assert circles(graph({name: its.imports for name, its in modules().items()})) == []


def test_what_decides_does_nothing_else() -> None:
    """No clock, socket, thread, log, file or chance in common and core."""
    assert len([name for name in modules() if part_of(name) in PURE]) > 15
    assert [what for its in modules().values() for what in its.impurities] == []


def test_each_part_has_its_own_libraries_only() -> None:
    """Common, core, configuration and the command are standard library; serve has no cloud library."""
    wrong = [
        f"{module} imports {imported}"
        for module, its in modules().items()
        if part_of(module) in LIBRARIES
        for imported in its.imports
        if not is_ours(imported)
        and (top := imported.partition(".")[0]) not in sys.stdlib_module_names
        and top not in LIBRARIES[part_of(module)]
    ]
    assert wrong == []


def test_the_document_has_the_same_table() -> None:
    """Row by row: the parts, and the libraries."""
    packages = {"python-barbicanclient": "barbicanclient", "PyYAML": "yaml"}
    text = (ROOT / "docs/architecture.md").read_text().partition("\n## Imports\n")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:2] == "| "
    ]
    documented: dict[str, tuple[set[str], set[str], bool]] = {}
    for part, needed, libraries in rows[1:]:
        names = [packages.get(name, name) for name in libraries.split(", ") if name and name != "any"]
        parts = set(documented) if needed == "all above" else set(re.findall(r"`([\w.]+)`", needed))
        documented[part.strip("`")] = (parts, set(names), libraries == "any")
    assert documented == {
        part: (needed, LIBRARIES.get(part, set()), part not in LIBRARIES)
        for part, needed in MAY_IMPORT.items()
    }


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "def f() -> None:\n    import os.path",
        "import logging.handlers",
        "from urllib import request",
        "import urllib.request",
        "from importlib import import_module",
        "from datetime import datetime as d\nd.now()",
        "from datetime import date\ndate.today()",
        "from pathlib import Path\nPath('/etc/passwd').read_text()",
        "open('/etc/passwd')",
        "__import__('socket')",
    ],
)
def test_an_impure_line_is_found(source: str) -> None:
    """Whatever it is written like."""
    assert impurities("common.planted", ast.parse(source)) != []


@pytest.mark.parametrize(
    "source",
    [
        "from urllib.parse import urlsplit",
        "import collections.abc",
        "from datetime import UTC, datetime, timedelta",
    ],
)
def test_a_pure_line_is_not(source: str) -> None:
    """What only computes."""
    assert impurities("common.planted", ast.parse(source)) == []


def test_a_circle_is_found_however_long_it_is() -> None:
    """Of three, one of them for a type, and a module that only hangs on it is no part of it."""
    sources = {
        "agent.a": "from agent.b import f",
        "agent.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agent import c",
        "agent.c": "def f():\n    import agent.a",
        "agent.d": "from agent import a",
    }
    imports = {name: imported_by(name, ast.parse(source)) for name, source in sources.items()}
    assert circles(graph(imports)) == [{"agent.a", "agent.b", "agent.c"}]


def test_a_part_is_named_by_its_longest_name() -> None:
    """The wings of serve, what is above them, and nothing that has no row."""
    assert part_of("agent.serve.store.store.Store") == "agent.serve.store"
    assert part_of("agent.serve.daemon") == "agent.serve"
    assert part_of("agent.__version__") == "agent"
    for unknown in ("agent.util", "agents.core", "agent.util.os"):
        with pytest.raises(AssertionError, match="no part"):
            part_of(unknown)


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
