"""Which files of a folder are its images: the same ones in memory, in a stream and for ImageNet."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from robust_stitching import data
from robust_stitching.basics.errors import UserError
from robust_stitching.data.listing import list_parts
from robust_stitching.data.vision import torchvision

IMAGES = {"train/a": 3, "train/b": 2, "test/a": 2, "test/b": 1}


def picture(path, **options):
    """An image of noise, in the format that the ending, or `format`, asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(str(path))).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def mine(tmp_path):
    """Eight images of two classes."""
    for folder, n in IMAGES.items():
        for i in range(n):
            picture(tmp_path / "mine" / folder / f"{i}.png")
    return tmp_path / "mine"


def found(folder):
    """The names below train/ with their classes, and the notes on them."""
    part, _ = list_parts(folder, ("train", "test"))
    names = [os.path.relpath(os.fsdecode(path), folder / "train") for path in part.paths]
    labels = [part.classes[label] for label in part.labels]
    return dict(zip(names, labels, strict=True)), " ".join(part.notes)


PLAIN = {"a/0.png": "a", "a/1.png": "a", "a/2.png": "a", "b/0.png": "b", "b/1.png": "b"}


def test_a_plain_folder(mine):
    assert found(mine) == (PLAIN, "")


def test_order_and_labels_are_torchvisions(tmp_path):
    """Classes and folders sorted as text: 1, 10, 2; and folders within classes."""
    for part in ("train", "test"):
        for name in ("1", "2", "10", "cat", "Cat"):
            for inner in ("9.png", "10.PNG", "sub/1.jpg", "sub.2/0.JPEG", "sub/deep/3.bmp"):
                picture(tmp_path / part / name / inner)
    known = torchvision().datasets.ImageFolder(str(tmp_path / "train"))
    part, _ = list_parts(tmp_path, ("train", "test"))
    assert part.classes == tuple(known.classes) == ("1", "10", "2", "Cat", "cat")
    assert [os.fsdecode(path) for path in part.paths] == [path for path, _ in known.samples]
    assert part.labels.tolist() == known.targets
    assert part.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails", "__pycache__", "#recycle"]
)
@pytest.mark.parametrize("where", [".", "a", "a/sub"])
def test_folders_of_tools_are_passed_over(mine, name, where):
    expected = dict(PLAIN)
    if where == "a/sub":
        picture(mine / "train/a/sub/x.png")
        expected |= {"a/sub/x.png": "a"}
    shutil.copytree(mine / "train/b", mine / "train" / where / name)
    names, notes = found(mine)
    assert names == expected
    assert notes == f"Left out in {mine / 'train'}, hidden folders or those of tools: 1 {name}."


@pytest.mark.parametrize(
    "name, options",
    [
        ("x.jfif", {"format": "JPEG"}),
        ("x.gif", {}),
        ("x.JPG", {}),
        ("x.TiFf", {}),
        ("x.jp2", {}),
        ("plain", {"format": "JPEG"}),
        ("n01440764_10026", {"format": "PNG"}),
        ("download.php", {"format": "WEBP"}),
        ("picture.txt", {"format": "BMP"}),
        ("x.png", {"format": "JPEG"}),
        ("x.jpg.part", {"format": "TIFF"}),
        ("x.pnm", {"format": "PPM"}),
    ],
)
def test_images_by_their_ending_or_their_content(mine, name, options):
    picture(mine / "train/a" / name, **options)
    assert found(mine) == (PLAIN | {f"a/{name}": "a"}, "")


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("notes.txt", b"hello", "1 .txt"),
        ("Thumbs.db", bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600), "1 .db"),
        ("desktop.ini", b"[.ShellClassInfo]\r\n", "1 .ini"),
        (".DS_Store", b"\0\0\0\1Bud1" + bytes(50), "1 hidden"),
        ("README", b"P1 is the first picture, BM the second", "1 no ending"),
        ("empty", b"", "1 no ending"),
        ("half.npy", b"\x93NUMPY", "1 .npy"),
        ("drawing.SVG", b"<svg></svg>", "1 .svg"),
        ("x.heic", b"\0\0\0\x18ftypheic" + bytes(100), "1 .heic"),
        ("short", b"\xff\xd8\xff", "1 no ending"),
    ],
)
def test_what_is_no_image_is_counted(mine, name, content, told):
    (mine / "train/a" / name).write_bytes(content)
    assert found(mine) == (PLAIN, f"Left out in {mine / 'train'}, no images: {told}.")


def test_the_shadow_of_a_file_is_hidden(mine):
    """macOS leaves ``._0.png`` beside ``0.png`` on foreign disks; it is no image."""
    (mine / "train/a/._0.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    picture(mine / "train/b/.hidden.png")
    assert found(mine) == (PLAIN, f"Left out in {mine / 'train'}, no images: 2 hidden.")


def test_counts_by_ending(mine):
    for i in range(12):
        (mine / "train/a" / f"{i}.txt").write_text("text")
    (mine / "train/b/x.json").write_text("{}")
    picture(mine / "train/stray.png")
    (mine / "train/labels.csv").write_text("a,b")
    names, notes = found(mine)
    assert names == PLAIN
    where = mine / "train"
    assert notes == (
        f"Left out in {where}, no images: 12 .txt, 1 .json. "
        f"Left out in {where}, in no class folder: 1 .csv, 1 .png."
    )


def test_many_endings_are_few_words(mine):
    for i in range(9):
        (mine / "train/a" / f"x.e{i}").write_text("text")
    assert found(mine)[1].endswith("1 .e5, 3 more.")


# Links


@pytest.mark.parametrize("up", ["..", "../..", ".", "../../..", "/"])
def test_a_link_to_a_folder_above(mine, up):
    (mine / "train/a/loop").symlink_to(up)
    names, notes = found(mine)
    assert names == PLAIN
    assert "or that hold them: a/loop." in notes


def test_a_link_to_a_folder_above_beside_the_classes(mine):
    for part in ("train", "test"):
        (mine / part / "loop").symlink_to(mine)
    names, notes = found(mine)
    assert names == PLAIN
    assert "hold them: loop." in notes


def test_a_link_up_the_way_that_was_taken(mine, tmp_path):
    """The training part lies elsewhere: the folder of its link is above it all the same."""
    shutil.move(mine / "train", tmp_path / "far")
    (mine / "train").symlink_to(tmp_path / "far")
    (tmp_path / "far/a/loop").symlink_to(mine)
    (tmp_path / "far/b/loop").symlink_to(tmp_path)
    assert found(mine)[0] == PLAIN


def test_a_link_up_behind_another_link(mine, tmp_path):
    """What is above the place that a link leads to is no more of the class than its siblings."""
    picture(tmp_path / "far/deep/x.png")
    picture(tmp_path / "far/other.png")
    (mine / "train/a/x").symlink_to(tmp_path / "far/deep")
    (tmp_path / "far/deep/loop").symlink_to(tmp_path / "far")
    names, notes = found(mine)
    assert names == PLAIN | {"a/x/x.png": "a"}
    assert "hold them: a/x/loop." in notes


def test_a_folder_elsewhere_is_read_once(mine, tmp_path):
    picture(tmp_path / "far/x.png")
    picture(tmp_path / "far/sub/y.png")
    for name in ("one", "two"):
        (mine / "train/a" / name).symlink_to(tmp_path / "far")
    (mine / "train/a/three").symlink_to(tmp_path / "far/sub")
    names, notes = found(mine)
    assert names == PLAIN | {"a/one/x.png": "a", "a/one/sub/y.png": "a"}
    assert "hold them: a/three, a/two." in notes


def test_a_real_folder_keeps_its_class(mine):
    """It comes before any link to it, from whatever class and in whatever order."""
    (mine / "train/a/more").symlink_to(mine / "train/b")
    names, notes = found(mine)
    assert names == PLAIN
    assert "hold them: a/more." in notes


def test_a_class_may_be_a_link(mine, tmp_path):
    shutil.move(mine / "train/b", tmp_path / "far")
    (mine / "train/b").symlink_to(tmp_path / "far")
    assert found(mine) == (PLAIN, "")


@pytest.mark.parametrize("inside", [".", "sub"])
@pytest.mark.parametrize("second", ["b", "b/deep"])
def test_a_folder_of_two_classes_is_refused(mine, tmp_path, second, inside):
    picture(tmp_path / "far/sub/x.png")
    (mine / "train/a/far").symlink_to(tmp_path / "far")
    if second == "b":
        shutil.rmtree(mine / "train/b")
    (mine / "train" / second).symlink_to(tmp_path / "far" / inside)
    with pytest.raises(UserError, match="linked to from the classes a and b"):
        found(mine)


def test_links_to_files_are_images(mine, tmp_path):
    picture(tmp_path / "x.png")
    (mine / "train/a/x.png").symlink_to(tmp_path / "x.png")
    (mine / "train/b/y").symlink_to(tmp_path / "x.png")
    assert found(mine) == (PLAIN | {"a/x.png": "a", "b/y": "b"}, "")


def test_links_to_nothing(mine, tmp_path):
    (mine / "train/a/gone").symlink_to(tmp_path / "gone")
    (mine / "train/a/self").symlink_to("self")
    assert found(mine) == (PLAIN, f"Left out in {mine / 'train'}, no images: 2 no ending.")
    (mine / "train/a/gone.png").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"gone\.png is a link to a file that is not there"):
        found(mine)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_not_waited_for(mine):
    for name in ("pipe", "pipe.png"):
        os.mkfifo(mine / "train/a" / name)
    assert found(mine)[0] == PLAIN


# Folders without images


@pytest.mark.parametrize("left", [None, "notes.txt", ".hidden.png", "sub/@eaDir/x.png"])
def test_a_class_without_images(mine, left):
    shutil.rmtree(mine / "train/a")
    (mine / "train/a").mkdir()
    if left and left.endswith("png"):
        picture(mine / "train/a" / left)
    elif left:
        (mine / "train/a" / left).write_text("text")
    with pytest.raises(UserError, match="a has no images in it") as error:
        data.load(str(mine))
    told = {"notes.txt": "1 .txt", ".hidden.png": "1 hidden", "sub/@eaDir/x.png": "1 @eaDir"}
    assert told.get(left, "") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_read(mine, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"train cannot be read \(Permission denied\)"):
        found(mine)


def test_names_that_are_no_text(mine):
    path = os.fsencode(mine / "train/a") + b"/\xff\xfe.png"
    try:
        shutil.copy(os.fsencode(mine / "train/a/0.png"), path)
    except OSError:
        pytest.skip("this file system has text alone")
    train, _ = data.load(str(mine))
    assert len(train) == 6


# The same for everybody who reads folders


def spoil(root, test):
    """What people's folders have beside images."""
    picture(root / "train/a/.ipynb_checkpoints/0-checkpoint.png")
    picture(root / "train/.ipynb_checkpoints/a.png")
    picture(root / test / "b/@eaDir/SYNO.jpg")
    picture(root / "train/a/more.jfif", format="JPEG")
    (root / "train/a/loop").symlink_to(root)
    (root / "train/b/notes.txt").write_text("text")


def test_in_memory_streamed_and_as_imagenet(mine, monkeypatch):
    spoil(mine, "test")
    small = data.load(str(mine))
    monkeypatch.setattr("robust_stitching.data.folder.MOST_IN_MEMORY", 0)
    streamed = data.load(str(mine))
    (mine / "test").rename(mine / "val")
    monkeypatch.setenv("DATASET_ROOT_IMAGENET", str(mine))
    pictures = data.load("imagenet")
    assert [type(splits[0]) for splits in (small, streamed)] == [data.Split, data.StreamedSplit]
    for splits in (small, streamed, pictures):
        train, test = splits
        assert train.labels.tolist() == [0, 0, 0, 0, 1, 1]
        assert test.labels.tolist() == [0, 0, 1]
        assert train.classes == test.classes == ("a", "b")
    assert small[0].notes == streamed[0].notes == pictures[0].notes
    assert "2 .ipynb_checkpoints" in " ".join(small[0].notes)
    assert "1 .txt" in " ".join(small[0].notes)
    assert small[1].notes == (
        f"Left out in {mine / 'test'}, hidden folders or those of tools: 1 @eaDir.",
    )
