"""The YAML files that tables and figures start from."""

import os
from pathlib import Path

import yaml

from fgp.errors import FgpError
from fgp.files import require_file, unreadable
from fgp_workflow.config import load
from fgp_workflow.experiment import Experiment

_LARGEST = 1 << 18
_IMPOSSIBLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class _Loader(yaml.SafeLoader):
    """Without aliases, of which a few lines unfold to gigabytes, and without repeated keys."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) is not read here; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError(f"a key occurs twice in the mapping {str(node.start_mark).strip()}")
        return mapping


def read_yaml(path: str | os.PathLike) -> dict:
    """Read a YAML mapping.

    Raises:
        FgpError: the file cannot be read, is larger than 256 KiB, is not YAML, uses aliases, repeats a key or holds no mapping.
    """
    require_file(path, "name the file of a configuration")
    try:
        if os.path.getsize(path) > _LARGEST:
            raise FgpError(f"{path}: larger than {_LARGEST >> 10} KiB, so no configuration; name another file")
        value = yaml.load(Path(path).read_text(), _Loader)
    except OSError as error:
        raise unreadable(path, error) from None
    except _IMPOSSIBLE as error:
        raise FgpError(f"{path}: not valid YAML ({error}); correct it, or name another file") from None
    if not isinstance(value, dict):
        raise FgpError(f"{path}: not a configuration: expected a mapping, found {type(value).__name__}; name another file")
    return value


def read_experiment(path: str | os.PathLike) -> Experiment:
    """Read and check a configuration.

    Raises:
        FgpError: as `read_yaml` and `fgp_workflow.config.load`.
    """
    return Experiment(load(read_yaml(path), str(path)))
