"""Every picture is looked at before anything is trained or measured."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.data.folder import read_measured
from benchmarks.data.image_set import ImageSet
from benchmarks.data.inspection import CACHE, PictureCache, inspect_pictures
from benchmarks.data.parts.jpeg_data import stops_early
from benchmarks.data.parts.picture_ends import missing_end
from export.errors import DataError
from export.pictures.images import open_photograph
from tests.benchmarks.data.tiny import coco, picture, write_coco


def _set(root: Path) -> ImageSet:
    write_coco(root, "train", coco(3))
    return read_measured(root, "train")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_a_cut_picture_is_found_by_its_end(tmp_path: Path, ending: str) -> None:
    images = _set(tmp_path)
    noise = Image.effect_noise((40, 30), 90).convert("RGB")
    path = tmp_path / f"other.{ending}"
    noise.save(path)
    images = replace(images, paths=(path, *images.paths[1:]))
    cache = PictureCache(tmp_path, keep=False)
    inspect_pictures([images], cache, decode=False)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"other\.{ending}: a broken picture"):
        inspect_pictures([images], PictureCache(tmp_path, keep=False), decode=False)


def _photo(path: Path, quality: int = 75) -> bytes:
    Image.effect_noise((160, 120), 90).convert("RGB").save(path, quality=quality)
    return path.read_bytes()


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("zeros", [5000, 9000])
def test_zeros_in_place_of_the_end_are_a_cut_picture(
    tmp_path: Path, ending: str, zeros: int, decode: bool
) -> None:
    images = replace(_set(tmp_path), paths=(tmp_path / f"other.{ending}",) * 3)
    path = images.paths[0]
    content = _photo(path, quality=98)
    assert len(content) > 2 * zeros
    path.write_bytes(content[:-zeros] + bytes(zeros))
    broken = rf"other\.{ending}: a (cut picture .*{zeros} bytes are zero|broken picture)"
    with pytest.raises(DataError, match=broken):
        inspect_pictures([images], PictureCache(tmp_path, keep=False), decode=decode)


def test_a_cut_jpeg_is_found_in_spite_of_the_end_of_its_preview(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    content = _photo(path, quality=98)
    preview = b"Exif\0\0\xff\xd8\xff\xd9"
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    whole = content[:2] + segment + content[2:]
    for text, lacks in ((whole, False), (whole[:-6000] + bytes(6000), True)):
        path.write_bytes(text)
        assert (missing_end(path) is not None) == lacks


@pytest.mark.parametrize(("ending", "lost"), [("jpg", 2), ("png", 12)])
def test_a_picture_without_its_end_alone_is_refused(tmp_path: Path, ending: str, lost: int) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(_photo(path)[:-lost])
    assert str(missing_end(path)).startswith(f"a {'JPEG' if ending == 'jpg' else 'PNG'} without")


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("more", [bytes(9000), b"film" * 20_000])
def test_data_behind_the_end_of_a_picture_are_no_fault(
    tmp_path: Path, ending: str, more: bytes
) -> None:
    write_coco(tmp_path, "train", coco(1))
    images = read_measured(tmp_path, "train")
    path = tmp_path / f"a.{ending}"
    Image.effect_noise((40, 30), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes() + more)
    for decode in (False, True):
        inspect_pictures(
            [replace(images, paths=(path,))], PictureCache(tmp_path, keep=False), decode=decode
        )


def test_damage_inside_a_picture_is_found_by_decoding_it(tmp_path: Path) -> None:
    images = _set(tmp_path)
    Image.effect_noise((40, 30), 90).convert("RGB").save(images.paths[1])
    content = bytearray(images.paths[1].read_bytes())
    content[600:900] = bytes(300)
    images.paths[1].write_bytes(content)
    inspect_pictures([images], PictureCache(tmp_path), decode=False)
    with pytest.raises(DataError, match=r"2\.png: a broken picture"):
        inspect_pictures([images], PictureCache(tmp_path), decode=True)


def test_a_picture_of_another_size_than_stated_is_found_by_its_header(tmp_path: Path) -> None:
    images = _set(tmp_path)
    for path in images.paths[:2]:
        picture(path, 20, 15)
    said = r"1\.png: the picture is 20 x 15 .* say 40 x 30.* 2 of 3 pictures .* also 2\.png"
    with pytest.raises(DataError, match=said):
        inspect_pictures([images], PictureCache(tmp_path), decode=False)


def test_what_was_looked_at_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    images = _set(tmp_path)
    inspect_pictures([images], PictureCache(tmp_path), decode=True)
    assert (tmp_path / CACHE).is_file()
    path = images.paths[1]
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    inspect_pictures([images], PictureCache(tmp_path), decode=True)  # it trusts size and time
    path.touch()
    with pytest.raises(DataError, match="not a picture"):
        inspect_pictures([images], PictureCache(tmp_path), decode=False)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"pictures": 3, "version": 1}'])
def test_a_damaged_record_is_ignored(tmp_path: Path, text: str) -> None:
    images = _set(tmp_path)
    (tmp_path / CACHE).write_text(text, encoding="utf-8")
    done: list[int] = []
    inspect_pictures([images], PictureCache(tmp_path), decode=False, progress=done.append)
    assert done == [1, 2, 3]


def test_nothing_is_written_where_there_are_no_runs(tmp_path: Path) -> None:
    inspect_pictures([_set(tmp_path)], PictureCache(tmp_path / "runs"), decode=True)
    inspect_pictures([_set(tmp_path)], PictureCache(tmp_path, keep=False), decode=True)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / CACHE).exists()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_cut_jpeg_with_an_end_marker_is_refused_where_all_is_decoded(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path, noise = tmp_path / "images" / "1.png", Image.effect_noise((40, 90), 90).convert("RGB")
    noise.paste((128, 128, 128), (0, 80, 40, 90))  # decoders' grey may be in a whole picture
    document = coco(1)
    document["images"][0]["height"] = 90
    write_coco(tmp_path, "train", document)
    noise.save(path, "JPEG", subsampling=0, **options)
    images = read_measured(tmp_path, "train")
    inspect_pictures([images], PictureCache(tmp_path, keep=False), decode=True)
    whole = path.read_bytes()
    scan = whole.find(b"\xff\xda")
    path.write_bytes(whole[: scan + (len(whole) - scan) // 2] + b"\xff\xd9")
    inspect_pictures([images], PictureCache(tmp_path, keep=False), decode=False)
    with pytest.raises(DataError, match=r"1\.png: a cut picture \(a JPEG whose data end before"):
        inspect_pictures([images], PictureCache(tmp_path, keep=False), decode=True)


def test_other_data_behind_a_jpeg_or_its_last_bits_missing_is_no_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    kinds: list[dict[str, Any]] = [{}, {"progressive": True}]
    for options in kinds:
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        noise.paste((128, 128, 128), (0, 48, 64, 64))
        noise.save(path, **options)
        whole = path.read_bytes()
        bits = () if options else (whole[:-3] + whole[-2:],)
        for data in (whole, whole + whole, whole + b"film" * 100, *bits):
            path.write_bytes(data)
            assert not stops_early(path, open_photograph(path))
