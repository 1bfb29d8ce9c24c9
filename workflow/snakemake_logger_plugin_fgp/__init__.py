"""Snakemake logger plugin `fgp`: calm progress (`--logger fgp`) and a command line that takes targets after --resources.

Snakemake imports every installed `snakemake_logger_plugin_*` package before it reads its arguments: the only place where its
command line can be mended. Importing this package therefore rewrites `sys.argv`, in Snakemake's own process only.
"""

import sys
from pathlib import Path

from .command_line import is_snakemake, rewrite
from .progress import LogHandler

__all__ = ["LogHandler"]

if is_snakemake(sys.argv[0]):
    sys.argv[1:] = rewrite(sys.argv[1:], Path())
