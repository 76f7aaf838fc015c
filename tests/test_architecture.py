"""The house's rules: who imports whom, what the launching process never imports, sizes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
PACKAGES = ("launcher", "strategies", "clusters")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAY_IMPORT = {
    "launcher": {"launcher", "strategies", "clusters"},
    "strategies": {"strategies"},
    "clusters": {"clusters"},
}
FRAMEWORKS = {"torch", "tensorflow", "keras", "horovod", "ray"}
# They run in processes of their own, never in the launching one.
RAYS_OWN = {"ray_driver.py", "ray_local.py", "ray_envoy.py", "ray_census.py", "ray_claim.py"}
RAYS_OWN |= {"ray_actor_worker.py", "ray_outpost.py"}
TOP_LEVEL = {"pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "LICENSE"}
TOP_LEVEL |= {"launcher", "strategies", "clusters", "tests", "docs"}


def imported(tree: ast.AST) -> set[str]:
    """The top-level names of all imports below ``tree``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = imported(ast.parse(path.read_text())) & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if "strategies" not in path.parts], ids=name_of
)
def test_launcher_and_clusters_import_no_framework(path: Path) -> None:
    allowed = {"ray"} if path.name in RAYS_OWN else set()
    assert imported(ast.parse(path.read_text())) & FRAMEWORKS <= allowed


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_top_level_holds_nothing_else() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_launching_process_imports_no_framework(tmp_path: Path, strategy: str) -> None:
    code = (
        "import sys\n"
        "from launcher.cli import main\n"
        "sys.argv = ['launcher', '--model', 'softmax', '--steps', '2', '--device', 'cpu',\n"
        f"            '--strategy', {strategy!r}, '--out', 'run', '--quiet']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "run/report.json").exists()
    modules = set(done.stdout.split())
    assert "launcher" in modules
    assert not modules & FRAMEWORKS
