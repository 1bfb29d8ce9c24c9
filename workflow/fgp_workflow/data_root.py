"""A data root that is gone: refused when the DAG is built, before Snakemake deletes prepared data that it cannot make anew."""

import os
from pathlib import Path

from fgp import provenance
from fgp.data.preparing import GENERATED
from fgp.errors import FgpError
from fgp_workflow.keys import Keys
from fgp_workflow.layout import Layout


def check(keys: Keys, paths: Layout, configuration: str) -> None:
    """Check the prepared data of every data set that is read from files.

    Raises:
        FgpError: they would be prepared anew, because without the data root their key is another; the message names the
            configuration, the data set and what would help.
    """
    experiment = keys.experiment
    root = experiment.config.data_root or os.environ.get("FGP_DATA")
    if root and Path(root).is_dir():
        return
    for name, section in experiment.datasets.items():
        if section.source in GENERATED or (root and section.download):
            continue
        path = paths.data.format(dataset=name)
        try:
            recorded = provenance.read(path)
        except FgpError:  # no such file, or a damaged one
            continue
        if recorded.get("key") != keys.data(name).key:
            reason = (
                f"the data root {root} is no folder"
                if root
                else "neither `data_root` nor the environment variable FGP_DATA is set"
            )
            raise FgpError(
                f"{configuration}: datasets.{name}: {path} would be prepared anew, and all that follows from it, but {reason}; "
                "name the data root, the same as before if nothing is to be repeated"
            )
