"""A user's own folder of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cvkan.domains import image
from cvkan.domains.image_folder import FolderSettings, decoded
from cvkan.domains.task import Data
from cvkan.errors import DataError

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of each of two classes, one of them in a deeper folder."""
    root = tmp_path / "images"
    for name, colour in COLOURS.items():
        (root / name / "deeper").mkdir(parents=True)
        for index in range(20):
            inner = "deeper/" if index == 0 else ""
            Image.new("RGB", (12, 10), colour).save(root / name / f"{inner}{index}.png")
    (root / "red" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    return root


def settings(folder: Path, **options: object) -> FolderSettings:
    return FolderSettings.model_validate({"path": str(folder), "image_size": 8, **options})


def load(folder: Path, **options: object) -> Data:
    return image.load(settings(folder, **options), folder.parent / "cache")


def test_classes_are_the_sub_folders_in_order(folder: Path) -> None:
    data = load(folder)
    assert data.task.n_outputs == 2 and data.task.shape == (3, 8, 8)
    assert (len(data.train), len(data.validation), len(data.test)) == (29, 3, 8)
    for part in (data.train, data.validation, data.test):
        for x, y in zip(part.x, part.y, strict=True):
            assert tuple(x[:, 0, 0].tolist()) == list(COLOURS.values())[int(y)]


def test_grayscale_and_augmentation(folder: Path) -> None:
    assert load(folder, grayscale=True).train.x.shape[1:] == (1, 8, 8)
    assert load(folder).augment is not None
    assert load(folder, augment="none").augment is None


def test_the_path_is_no_part_of_a_trial_but_the_content_is(folder: Path, tmp_path: Path) -> None:
    before = load(folder).hash
    moved = tmp_path / "moved" / "images"
    moved.parent.mkdir()
    folder.rename(moved)
    assert load(moved).hash == before
    assert settings(moved).identity() == settings(folder).identity()
    Image.new("RGB", (12, 10), (0, 0, 254)).save(moved / "blue" / "1.png")
    assert load(moved).hash != before


def test_scaling_keeps_proportions_and_cuts_about_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (decoded(tmp_path / "wide.png", settings(tmp_path, image_size=10)) == 200).all()


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image_read = decoded(tmp_path / "turned.png", settings(tmp_path))
    assert (image_read[:, :4] == 0).all() and (image_read[:, 4:] == 255).all()


def test_a_missing_folder_is_told_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/none: No such file or directory; set data.path"):
        image.task(settings(tmp_path / "none"))


@pytest.mark.parametrize("text", ["", "~nobody-of-that-name/x", "a\0b"])
def test_what_can_be_no_path_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^data\.path: "):
        image.task(FolderSettings(path=text))


def test_a_class_whose_name_is_not_utf8_is_named(folder: Path) -> None:
    os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"images: the name b'caf\\xe9' is not UTF-8; rename it"):
        image.task(settings(folder))


def test_names_of_classes_cannot_steer_the_terminal(folder: Path) -> None:
    (folder / "red").rename(folder / "red\x1b[31m\n")
    lines = image.check(settings(folder), folder.parent / "cache")
    assert all(line.isprintable() for line in lines) and any(r"red\x1b[31m\n" in line for line in lines)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "red" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png is no regular file"):
        load(folder)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    with pytest.raises(DataError, match="1 sub-folders found; at least two"):
        image.task(settings(tmp_path))


def test_an_empty_class_is_named(folder: Path) -> None:
    (folder / "violet").mkdir()
    with pytest.raises(DataError, match=r"violet: empty class: no image \(\.jpg, "):
        load(folder)


def test_a_class_too_small_to_split_is_told(folder: Path) -> None:
    (folder / "violet").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "violet" / "single.png")
    with pytest.raises(DataError, match=r"data.test: cannot hold out 8 of 41 examples: .*the 3 classes, and the smallest class has 1"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"no image", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_an_unreadable_image_is_named_and_nothing_is_left(folder: Path, content: bytes) -> None:
    (folder / "red" / "5.png").write_bytes(content)
    with pytest.raises(DataError, match=r"red/5\.png: unreadable image .*; repair or remove it"):
        load(folder)
    assert [path.name for path in (folder.parent / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cut_image_is_named(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "red" / "5.png")
    raw = (folder / "red" / "5.png").read_bytes()
    (folder / "red" / "5.png").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"red/5\.png: unreadable image"):
        load(folder)


def test_a_decompression_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # warns from 1,000 pixels, raises from 2,000
    Image.new("RGB", (40, 30)).save(folder / "red" / "5.png")
    with pytest.raises(DataError, match=r"red/5\.png: unreadable image .*decompression bomb"):
        load(folder)
    Image.new("RGB", (100, 100)).save(folder / "red" / "5.png")
    with pytest.raises(DataError, match=r"red/5\.png: unreadable image .*decompression bomb"):
        load(folder)


def test_a_16_bit_image_is_refused(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(folder / "red" / "5.png")
    with pytest.raises(DataError, match=r"red/5\.png: more than 8 bits a channel"):
        load(folder)


@pytest.mark.parametrize("kind", ["file", "folder", "class"])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (8, 8)).save(outside / "secret.png")
    match kind:
        case "file":
            (folder / "red" / "link.png").symlink_to(outside / "secret.png")
        case "folder":
            (folder / "red" / "link").symlink_to(outside)
        case "class":
            (folder / "link").symlink_to(outside)
    with pytest.raises(DataError, match="outside the folder, is refused"):
        load(folder)


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "red" / "link.png").symlink_to(folder / "red" / "5.png")
    data = load(folder)
    assert len(data.train) + len(data.validation) + len(data.test) == 41


def test_the_same_seed_gives_the_same_split(folder: Path, tmp_path: Path) -> None:
    first = load(folder)
    again = image.load(settings(folder), tmp_path / "another cache")
    assert torch.equal(first.train.x, again.train.x) and first.hash == again.hash
