"""The YAML files that tables and figures start from."""

import os
from collections.abc import Callable
from pathlib import Path

import yaml

from fgp.errors import FgpError
from fgp.files import require_file, unreadable
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment

_IMPOSSIBLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: str | os.PathLike) -> dict:
    """Read a YAML mapping.

    Raises:
        FgpError: the file cannot be read, is not YAML, repeats a key or holds no mapping.
    """
    value = _parsed(path, yaml.safe_load)
    check_repeated_keys(path)
    if not isinstance(value, dict):
        raise FgpError(f"{path}: not a configuration: expected a mapping, found {type(value).__name__}; name another file")
    return value


def check_repeated_keys(path: str | os.PathLike) -> None:
    """Check that no mapping of a YAML or JSON file has a key twice; Snakemake takes the last one without a word.

    Raises:
        FgpError: a key is repeated, the message names it with its lines; or the file cannot be read, or is neither YAML nor JSON.
    """
    if repeated := _parsed(path, _repeated):
        key, first, line = repeated
        raise FgpError(f"{path}: line {line}: the key {key} stands in line {first} already; keep one of them")


def _parsed(path: str | os.PathLike, parse: Callable[[str], object]) -> object:
    require_file(path, "name the file of a configuration")
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from None
    except _IMPOSSIBLE as error:
        raise FgpError(f"{path}: not valid YAML ({error}); correct it, or name another file") from None


def _repeated(text: str) -> tuple[str, int, int] | None:
    """Return a key that stands twice in one mapping of a YAML text, with its two lines."""
    loader = yaml.SafeLoader(text.replace("\t", " "))  # tabs may indent JSON, which is YAML otherwise
    waiting, visited = [loader.get_single_node()], set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines = {}
        for key, value in node.value:
            waiting.append(value)
            if isinstance(key, yaml.ScalarNode):
                name = key.value if key.tag == _MERGE else loader.construct_object(key)
                line = key.start_mark.line + 1
                if name in lines:
                    return key.value, lines[name], line
                lines[name] = line
    return None


def read_experiment(path: str | os.PathLike) -> Experiment:
    """Read and check a configuration.

    Raises:
        FgpError: as `read_yaml` and `fgp_workflow.config.load`.
    """
    return Experiment(load(read_yaml(path), str(path)))
