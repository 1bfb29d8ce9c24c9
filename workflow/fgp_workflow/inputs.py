"""The YAML files that tables and figures start from."""

import os
from pathlib import Path

import yaml

from fgp.errors import FgpError
from fgp_workflow.config import load
from fgp_workflow.grid import Grid


def read_yaml(path: str | os.PathLike) -> dict:
    """Read a YAML mapping.

    Raises:
        FgpError: the file cannot be read, is not YAML or holds no mapping.
    """
    try:
        value = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise FgpError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FgpError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(value, dict):
        raise FgpError(f"{path}: expected a mapping, found {type(value).__name__}")
    return value


def read_grid(path: str | os.PathLike) -> Grid:
    """Read and check an experiment's configuration.

    Raises:
        FgpError: as `read_yaml` and `fgp_workflow.config.load`.
    """
    return Grid(load(read_yaml(path), str(path)))


def read_config(path: str | os.PathLike) -> dict:
    """Read and check an experiment's configuration; the result is plain, every default filled in."""
    return read_grid(path).config.model_dump(mode="json")
