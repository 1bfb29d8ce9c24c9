"""Check that two runs gave the same: `check_same.py results/one results/other` compares every cell and every tensor, bit for bit.

What depends on the run and not on the seed is left out: times, latencies, commit, hardware.
"""

import re
import sys
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

OF_THE_RUN = r"seconds$|latency|^(commit|dirty|hardware|finished)$"


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs, a line each."""
    cells, again = (pd.read_csv(folder / "cells.csv") for folder in (one, other))
    kept = [name for name in cells if not re.search(OF_THE_RUN, name)]
    found = [] if cells[kept].equals(again[kept]) else ["cells.csv"]
    files, others = ({path.relative_to(folder) for path in folder.rglob("*.safetensors")} for folder in (one, other))
    found += [f"only in one: {path}" for path in sorted(files ^ others)]
    for path in sorted(files & others):
        tensors, same = load_file(one / path), load_file(other / path)
        if tensors.keys() != same.keys() or not all(torch.equal(tensors[key], same[key]) for key in tensors):
            found.append(str(path))
    print(f"{len(cells)} cells with {len(kept)} entries each and {len(files)} files of tensors compared")
    return found


if __name__ == "__main__":
    found = differences(*map(Path, sys.argv[1:]))
    print(*(f"different: {what}" for what in found), sep="\n")
    sys.exit(bool(found))
