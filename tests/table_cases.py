"""A configuration with tasks beside the paper's tables, and made-up cells of it."""

from made_up import experiment, row, table, task

SETS = {"cifar10": {"source": "cifar10"}, "scenes": {"source": "scenes", "size": [48, 64]}}
METHODS = ["fgp", "l1", "slimming", "aofp", "cap", "scratch-e"]
CIFAR = task(
    "cifar10",
    "vgg16",
    k={"FGP*": 0.35, "FGP+": 0.40},
    budgets={"FGP*": 0.2368, "FGP+": 0.2655},
    at_printed={"slimming": 0.5201, "aofp": 0.3105},
    paper={"table": "T1", "backbone": "VGG-16", "column": "acc_cifar10"},
)
SCENES = task(
    "scenes",
    "segnet",
    width=0.25,
    stage_recipes={"cap": "short"},
    k={"FGP+": 0.40},
    budgets={"FGP+": 0.3618},
    paper={"table": "T2", "backbone": "SegNet", "column": "CamVid"},
)
TASKS = {"cifar-vgg": CIFAR, "scenes-segnet": SCENES}


def asking(**sections):
    """Return the experiment, with other sections if given."""
    return experiment(**{"datasets": SETS, "tasks": TASKS, "methods": METHODS, **sections})


def cell(path, seed, after, before=None, macs=100_000_000, params=4_000_000, task="cifar-vgg", **columns):
    """Return a row of cells.csv; the dense network has 400 M MACs and 16 M parameters."""
    share = {"macs_remaining_percent": macs / 4e6, "params_remaining_percent": params / 1.6e5}
    latency = {"latency_b128_median_ms": 8.0 + seed, "latency_b128_q1_ms": 7.0}
    made = {"before_percent": before, "macs": macs, "params": params, "score_seconds": 2.0, **share, **latency}
    return row(task, path, seed, after, **{**made, **columns})


DENSE = {"macs": 400_000_000, "params": 16_000_000}
ROWS = [
    cell("dense/unpruned", 0, 94.0, **DENSE),
    cell("dense/unpruned", 1, 93.0, **DENSE),
    cell("fgp/cumulative-0.35", 0, 80.0, 20.0, macs=10_000_000),
    cell("fgp/cumulative-0.35", 1, 82.0, 30.0, macs=14_000_000),
    cell("fgp/count-0.35", 0, 85.0, 10.0, macs=48_000_000),
    cell("fgp/count-0.35", 1, 87.0, 10.0, macs=48_000_000),
    cell("fgp/macs-0.2368", 0, 92.0, 50.0),
    cell("fgp/macs-0.2368", 1, 91.0, 40.0),
    cell("l1/macs-0.2368", 0, 92.5, 10.0),
    cell("l1/macs-0.2368", 1, 92.5, 10.0),
    cell("slimming/macs-0.2368", 0, 99.0, 10.0),
    cell("scratch-e/macs-0.2368", 0, 90.0),
    cell("scratch-e/macs-0.2368", 1, 90.0),
    cell("slimming/macs-0.5201", 0, 93.5, 12.0, macs=200_000_000),
    cell("slimming/macs-0.5201", 1, 93.5, 12.0, macs=200_000_000),
]
CELLS = table(ROWS)


def find(built, method, selection, block=0):
    """Return the number of a row in its block."""
    rows = built.blocks[block].rows
    (i,) = [i for i, row in enumerate(rows) if (row.method, row.selection) == (method, selection)]
    return i
