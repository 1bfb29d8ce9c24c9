"""What is noticed of the files in the data root."""

import os

from fgp.data.listing import DOWNLOADED, listing


def put(path, content=b"1", time=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time, time))
    return path


def test_files_by_name_size_and_time(tmp_path):
    put(tmp_path / "mine/train/cat/1.png", b"12")
    put(tmp_path / "mine/test/cat/2.png", time=2000)
    put(tmp_path / "other/train/cat/1.png")
    second = 10**9
    assert listing("folder:mine", tmp_path) == [
        ("mine/test/cat/2.png", 1, 2000 * second),
        ("mine/train/cat/1.png", 2, 1000 * second),
    ]
    assert listing("folder:none", tmp_path) == listing("folder:mine", tmp_path / "none") == listing("folder:mine", None) == []


def test_a_zip_comes_before_the_folder_of_its_name(tmp_path):
    put(tmp_path / "camvid/train/1.png")
    put(tmp_path / "camvid.zip", b"zip")
    assert [name for name, *_ in listing("camvid", tmp_path)] == ["camvid.zip"]


def test_what_is_not_read_or_was_checked_is_left_out(tmp_path):
    put(tmp_path / "mine/.DS_Store")
    put(tmp_path / "mine/.cache/x.png")
    (tmp_path / "mine/nowhere.png").symlink_to(tmp_path / "nowhere")
    assert listing("folder:mine", tmp_path) == []
    put(tmp_path / "camvid.zip", time=DOWNLOADED)
    put(tmp_path / "cifar-10-python.tar.gz")
    assert listing("camvid", tmp_path) == listing("cifar10", tmp_path) == []


def test_a_folder_that_leads_into_itself_ends(tmp_path):
    put(tmp_path / "mine/train/cat/1.png")
    for name in ("again", "once more"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "mine")
    assert listing("folder:mine", tmp_path) == []
