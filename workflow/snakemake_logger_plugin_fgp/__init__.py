"""Snakemake logger plugin `fgp`: calm progress (`--logger fgp`) and a command line that takes targets after --resources.

Snakemake imports every installed `snakemake_logger_plugin_*` package before it reads its arguments: the only place where its
command line can be mended. Importing this package therefore moves targets in `sys.argv`, in Snakemake's own process only.
"""

import sys

from .command_line import is_snakemake, separate_targets
from .progress import LogHandler

__all__ = ["LogHandler"]

if is_snakemake(sys.argv[0]):
    sys.argv[1:], advice = separate_targets(sys.argv[1:])
    for line in advice:
        print(line, file=sys.stderr)
