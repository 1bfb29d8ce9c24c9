"""The numbers that the paper prints (`config/printed/tables.yaml`), with marks on cells that contradict others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fgp.errors import FgpError
from fgp_workflow.experiment import Experiment

FILE = Path(__file__).parents[2] / "config" / "printed" / "tables.yaml"
DENSE = "Unpruned"
DATA_SETS = {  # column, or data set of Table 2: (name, source in fgp.data, image side or sides)
    "acc_cifar10": ("CIFAR-10", "cifar10", (32, 32)),
    "acc_cifar100": ("CIFAR-100", "cifar100", (32, 32)),
    "CamVid": ("CamVid", "camvid", (360, 480)),
    "Cityscapes": ("Cityscapes", "cityscapes", (1024, 2048)),
}
NETWORKS = {  # (table, backbone): network of fgp.models
    ("T1", "VGG-16"): "vgg16",
    ("T1", "ResNet-50"): "resnet50",
    ("T2", "SegNet"): "segnet",
    ("T2", "ResNet-50"): "deeplabv3",
    ("T3", "VGG-16"): "vgg16",
}
FIELDS = ("flops", "flops_percent", "params", "params_percent")


@dataclass(frozen=True)
class PrintedRow:
    """One printed row.

    Attributes:
        method: the row's name: "Unpruned", "Slimming", "FGP*", ...
        values: what is printed, as printed, by field: "flops", "flops_percent", "params", "params_percent", "metric".
        marks: by field, what is wrong with the printed cell.
    """

    method: str
    values: Mapping[str, str]
    marks: Mapping[str, str] = field(default_factory=dict)


def rows_of(printed: Mapping, table: str, backbone: str, column: str) -> list[PrintedRow]:
    """Return the rows of `table` ("T1", "T2", "T3") for one backbone and data set.

    Args:
        printed: what `fgp_workflow.inputs.read_yaml(FILE)` returns.
        table: "T1", "T2" or "T3".
        backbone: as printed: "VGG-16", "ResNet-50", "SegNet".
        column: T1 and T3: the accuracy column, "acc_cifar10" or "acc_cifar100"; T2: the data set, "CamVid" or "Cityscapes".

    Raises:
        FgpError: the paper prints no such rows.
    """
    section = printed[table]
    metric = "miou" if table == "T2" else column
    names = {**{name: name for name in FIELDS}, metric: "metric"}
    rows = []
    for row in section["rows"]:
        if row["backbone"] == backbone and row.get("dataset", column) == column and metric in row["printed"]:
            values, marks = (
                {names[name]: text for name, text in part.items() if name in names}
                for part in (row["printed"], row.get("marks", {}))
            )
            rows.append(PrintedRow(row["method"], values, marks))
    if not rows:
        legal = {(row["backbone"], row.get("dataset", name)) for row in section["rows"] for name in row["printed"]}
        legal = sorted({f"{b} with {c}" for b, c in legal if c not in (*FIELDS, "miou")})
        raise FgpError(
            f"paper: {{table: {table}, backbone: {backbone}, column: {column}}}: not printed; legal: {', '.join(legal)}"
        )
    return rows


def difference(experiment: Experiment, name: str, where: Mapping[str, str]) -> str:
    """Say how a task differs from the experiment whose printed numbers stand beside it; "" where it does not.

    Args:
        experiment: the configuration.
        name: the task.
        where: the printed rows: "table", "backbone" and "column", as for `rows_of`.
    """
    task = experiment.tasks[name]
    dataset = experiment.datasets[task.dataset]
    printed, source, size = DATA_SETS[where["column"]]
    ours, theirs = [], []
    if dataset.source != source:
        theirs.append(printed)
        ours.append(f"{task.dataset} (source {dataset.source})")
    else:
        cut = [f"{key} {value}" for key in ("classes", "train_limit", "test_limit") if (value := getattr(dataset, key))]
        sides = dataset.size or size
        sides = (sides, sides) if isinstance(sides, int) else sides
        if cut or sides != size:
            theirs.append(f"all of {printed} at {size[0]}x{size[1]} pixels")
            ours.append(", ".join([*cut, f"{sides[0]}x{sides[1]} pixels"]))
    network = NETWORKS[where["table"], where["backbone"]]
    if (task.network, task.width) != (network, 1):
        theirs.append(f"{network} at full width")
        ours.append(f"{task.network} at width {task.width:g}")
    if not theirs:
        return ""
    return (
        f"The printed numbers are of another experiment ({'; '.join(theirs)}) than ours ({'; '.join(ours)}): "
        "only the pattern can be compared, not the numbers."
    )
