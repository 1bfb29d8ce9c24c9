"""A hash of the source that a stage runs, so that an edit reruns that stage and no other.

Snakemake does not see changes in imported modules. A rule that carries `params: code=codehash.of("fgp.cli.train")` does.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Packages that import their modules by name at run time: to import the package is to import all of them.
WHOLE = {"fgp.models"}
PACKAGES = {"fgp": ROOT / "fgp", "baselines": ROOT / "baselines", "fgp_workflow": Path(__file__).parent}


@cache
def of(*modules: str) -> str:
    """Return a short hash over `modules` and everything of this project that they import, at whatever depth."""
    files: set[Path] = set()
    for module in modules:
        _add(module, files)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _add(module: str, files: set[Path]) -> None:
    for file in _files(module):
        if file not in files:
            files.add(file)
            for name in _imports(file):
                _add(name, files)


@cache
def _files(module: str) -> tuple[Path, ...]:
    """Return the files that `import module` runs: its own and the `__init__` of every package above it."""
    package, *rest = module.split(".")
    folder = PACKAGES.get(package)
    if folder is None:
        return ()
    found = [folder / "__init__.py"]
    for part in rest:
        if (folder / part).is_dir():
            folder = folder / part
            found.append(folder / "__init__.py")
        else:
            found.append(folder / f"{part}.py")
            break
    if module in WHOLE:
        found += sorted(folder.glob("*.py"))
    return tuple(file for file in found if file.exists())


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return the modules that a file imports, inside functions too; names imported on first use count as their modules."""
    nodes = list(ast.walk(ast.parse(file.read_text(), str(file))))
    bound: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            bound.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            bound.update({alias.asname or alias.name: _member(node.module, alias.name) for alias in node.names})
            bound[node.module] = node.module
    used = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    members = {_member(bound[node.value.id], node.attr) for node in used if node.value.id in bound}
    return frozenset(bound.values()) | members


def _member(package: str, name: str) -> str:
    return _lazy(package).get(name, f"{package}.{name}")


@cache
def _lazy(package: str) -> dict[str, str]:
    """Return the names that a package's `__init__` imports on first use, with their modules: its dictionary `_ATTRIBUTES`."""
    files = _files(package)
    if not files or files[-1].name != "__init__.py":
        return {}
    for node in ast.parse(files[-1].read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_ATTRIBUTES":
            return ast.literal_eval(node.value)
    return {}
