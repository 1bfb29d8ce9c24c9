"""Source `cityscapes`: the official layout, 19 classes; `val` is the test split, the official test labels are not public."""

from fgp.data.archive import FolderArchive
from fgp.data.decode import label_table
from fgp.data.fileparts import PairPart, pair_up
from fgp.data.header import VOID
from fgp.data.source import Request, Source
from fgp.errors import FgpError

# Label id in the *_labelIds.png files of each of the 19 evaluated classes, in the order of their training ids
# (cityscapesScripts, helpers/labels.py).
_CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
_IDS = 34
_IMAGE, _ANNOTATION = "_leftImg8bit.png", "_gtFine_labelIds.png"


def cityscapes(request: Request) -> Source:
    """Build source `cityscapes` from `<root>/cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>/`.

    Raises:
        FgpError: the folders are not there (the message tells how to get them), or an image or annotation lacks its partner.
    """
    folder = request.folder("cityscapes") / "cityscapes"
    if not all((folder / kind / split).is_dir() for kind in ("leftImg8bit", "gtFine") for split in ("train", "val")):
        raise FgpError(
            f"{folder}: lacks leftImg8bit/{{train,val}} or gtFine/{{train,val}}. Cityscapes needs an account: register at "
            "https://www.cityscapes-dataset.com, `pip install cityscapesscripts`, "
            "`csDownload leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip`, and unpack both there"
        )
    archive = FolderArchive(folder)
    return Source(
        task="segmentation",
        classes=tuple(_CLASSES),
        outputs=len(_CLASSES),
        train=_part(archive, "train"),
        test=_part(archive, "val"),
    )


def _part(archive: FolderArchive, split: str) -> PairPart:
    mapping = dict.fromkeys([*range(_IDS), VOID], VOID) | {number: label for label, number in enumerate(_CLASSES.values())}
    images = _by_key(archive.names, f"leftImg8bit/{split}/", _IMAGE)
    annotations = _by_key(archive.names, f"gtFine/{split}/", _ANNOTATION)
    return PairPart(archive, pair_up(archive, images, annotations, f"leftImg8bit/{split}"), label_table(mapping))


def _by_key(names: list[str], prefix: str, suffix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix).removesuffix(suffix): name
        for name in names
        if name.startswith(prefix) and name.endswith(suffix)
    }
