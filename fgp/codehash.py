"""A hash of the code that a stage runs: what it means, not how it is written.

Comments, docstrings and the shape of the source have no part in it, nor has the version of Python. The one answer to "which code
does this run?", for the workflow's keys and for the checkpoints of an unfinished training.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"fgp": ROOT / "fgp", "baselines": ROOT / "baselines", "fgp_workflow": ROOT / "workflow" / "fgp_workflow"}


@cache
def of(*modules: str, but: frozenset[str] = frozenset()) -> str:
    """Return a short hash over `modules` and everything of this project that they import, at whatever depth.

    A module that is imported by a name known at run time only (a network, a method) is to be named.

    Args:
        modules: full names.
        but: modules that do not count unless they are among `modules`: the alternatives that a stage leaves alone.
    """
    files: set[Path] = set()
    followed = {file for name in but for file in _files(name)[-1:]}
    for module in modules:
        if module in but:
            _add(module, files, set())
    for module in modules:
        _add(module, files, followed)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\0{_meaning(file)}\0".encode())
    return digest.hexdigest()[:12]


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


@cache
def _meaning(file: Path) -> str:
    """Return the syntax tree of a file as text, without docstrings.

    `ast.dump` will not do: what it writes depends on the version of Python. Entries that are empty are left out for that reason:
    new versions add such (`type_params`).
    """

    def text(node: object) -> str:
        if isinstance(node, list):
            return f"[{','.join(text(child) for child in node if not _is_text_alone(child))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        fields = [f"{name}={text(value)}" for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({','.join(fields)})"

    return text(_tree(file))


def _is_text_alone(node: object) -> bool:
    """Whether a statement is a text that nothing uses: a docstring, wherever it stands."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _add(module: str, files: set[Path], followed: set[Path]) -> None:
    """Add the files of a module and of what it imports to `files`; what stands in `followed` has been done, or is left out.

    The imports of a package do not count where only a module of it is imported.
    """
    *packages, own = _files(module) or (None,)
    files.update(packages)
    if own and own not in followed:
        files.add(own)
        followed.add(own)
        for name in _imports(own):
            _add(name, files, followed)


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
    return tuple(file for file in found if file.exists())


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return the modules that a file imports, inside functions too; names imported on first use count as their modules."""
    nodes = list(_run(_tree(file)))
    bound: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            bound.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            package = _named(file, node)
            bound.update({alias.asname or alias.name: _member(package, alias.name) for alias in node.names})
    used = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    members = {_member(bound[node.value.id], node.attr) for node in used if node.value.id in bound}
    return frozenset(bound.values()) | members


def _named(file: Path, node: ast.ImportFrom) -> str:
    """Return the full name of the package or module that a `from` names, relative ones too."""
    if not node.level:
        return node.module
    (package, folder), *_ = (found for found in PACKAGES.items() if file.is_relative_to(found[1]))
    inside = [package, *file.relative_to(folder).parts]
    return ".".join([*inside[: len(inside) - node.level], *([node.module] if node.module else [])])


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without what is there for type checkers only."""
    yield node
    checking = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for child in node.orelse if checking else ast.iter_child_nodes(node):
        yield from _run(child)


def _member(package: str, name: str) -> str:
    return _lazy(package).get(name, f"{package}.{name}")


@cache
def _lazy(package: str) -> dict[str, str]:
    """Return the names that a package's `__init__` imports on first use, with their modules: its dictionary `_ATTRIBUTES`."""
    files = _files(package)
    if not files or files[-1].name != "__init__.py":
        return {}
    for node in _tree(files[-1]).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_ATTRIBUTES":
            return ast.literal_eval(node.value)
    return {}
