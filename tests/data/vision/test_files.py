"""Picture files: where they may lie, how large they may be, and how broken ones are found."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from inlay.core.errors import DataError
from inlay.core.types import ImageRef
from inlay.data.vision.files import MAX_PIXELS, base_folder, open_image, probe, read, resolve

NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def encoded(kind, image=None, **options):
    file = io.BytesIO()
    (image or Image.fromarray(NOISE)).save(file, kind, **options)
    return file.getvalue()


def chunk(name, data):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_header(width, height, *chunks):
    """A PNG that says how large it is and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + body


@pytest.fixture
def folder(tmp_path):
    """``data/pictures/a.png``, and a secret beside ``data``."""
    pictures = tmp_path / "data" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("verify", [False, True])
def test_size_and_key(kind, verify):
    data = encoded(kind)
    width, height, key = probe(ImageRef(data=data), verify)
    assert (width, height) == (64, 48)
    assert key == probe(ImageRef(data=memoryview(data)), verify)[2]
    assert key != probe(ImageRef(data=encoded(kind, Image.new("RGB", (64, 48)))), verify)[2]
    assert open_image(ImageRef(data=data)).size == (64, 48)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (4000, 5)])
def test_verifying_keeps_the_size_of_a_jpeg(size):
    assert probe(ImageRef(data=encoded("JPEG", Image.new("RGB", size))), True)[:2] == size


def test_pixels_are_those_of_the_file():
    assert np.array_equal(np.asarray(open_image(ImageRef(data=encoded("PNG")))), NOISE)


def test_paths_are_relative_to_the_image_folder_or_the_data(folder):
    path = str(folder / "pictures" / "a.png")
    for name, image_folder in [
        ("a.png", str(folder / "pictures")),
        ("pictures/a.png", None),
        ("pictures/../pictures/a.png", None),
        (path, None),
        (path, str(folder / "pictures")),
    ]:
        found = resolve(ImageRef(name, place="x.json, line 3"), image_folder, folder)
        assert (found.path, found.place) == (path, "x.json, line 3")
    inside = ImageRef(data=b"x")
    assert resolve(inside, None, folder) is inside


def test_folder_that_is_a_link_itself(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    found = resolve(ImageRef("pictures/a.png"), str(tmp_path / "link"), Path("/nowhere"))
    assert found.path == str(folder / "pictures" / "a.png")


@pytest.mark.parametrize(
    "name", ["../secret.png", "pictures/../../secret.png", "link.png", "up/secret.png", "ABSOLUTE"]
)
@pytest.mark.parametrize("given", [True, False])
def test_no_path_leads_out(folder, tmp_path, name, given):
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    name = str(tmp_path / "secret.png") if name == "ABSOLUTE" else name
    ref = ImageRef(name, place="x.json, line 3")
    with pytest.raises(DataError, match=r"x.json, line 3: picture '.*' leads out of the image"):
        resolve(ref, str(folder) if given else None, folder)


def test_a_sibling_with_the_same_beginning_is_outside(folder):
    (folder.parent / "data2").mkdir()
    (folder.parent / "data2" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="leads out"):
        resolve(ImageRef("../data2/a.png"), None, folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b.png", "not a file.*Set image_folder"),
        ("pictures", "not a file"),
        ("a\0.png", "no usable path"),
        ("loop", "not a file"),
        ("x" * 5000, "not a file|no usable path"),
    ],
)
def test_missing(folder, name, message):
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(DataError, match=f"(?s){message}"):
        resolve(ImageRef(name), None, folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"not a picture at all", "not a picture: it starts with b'not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (png_header(30_000, 30_000), "pixels"),
        (png_header(10_000, 9_000), "10000 x 9000 pixels, at most"),
        (encoded("PNG")[:40], "picture|opened|decoded"),
    ],
)
def test_files_that_are_refused(tmp_path, data, message):
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    ref = ImageRef(str(path), place="x.json, line 3")
    for use in (open_image, lambda ref: probe(ref, True)):
        with warnings.catch_warnings(), pytest.raises(DataError, match=message) as caught:
            warnings.simplefilter("ignore")
            use(ref)
        assert str(caught.value).startswith(f"x.json, line 3: picture '{path}'")
    with pytest.raises(DataError, match="a picture in the row"):
        read(ImageRef(data=b""))


@pytest.mark.parametrize("limit", [None, 10, MAX_PIXELS])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_bombs_whatever_pil_is_told(monkeypatch, limit, action):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    bomb = ImageRef(data=png_header(9_460, 9_460))
    with warnings.catch_warnings(), pytest.raises(DataError, match="at most 89,478,485"):
        warnings.simplefilter(action)
        probe(bomb, False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_found_by_verifying(kind, share):
    data = encoded(kind)
    cut = ImageRef(data=data[: int(len(data) * share)])
    for use in (open_image, lambda ref: probe(ref, True)):
        with pytest.raises(DataError, match=r"cannot be decoded|cannot be opened|not a picture"):
            use(cut)
    if kind != "WEBP":  # its reader wants the whole file at once
        assert probe(cut, False)[:2] == (64, 48)


def test_limits_of_pil_stay_as_they_are():
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1)))
    with pytest.raises(DataError, match=r"cannot be opened|cannot be decoded"):
        probe(ImageRef(data=png_header(4, 4, text)), True)
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1024 * 1024
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_every_mode_becomes_rgb_without_a_warning():
    palette = Image.fromarray(NOISE).quantize(16)
    seen = np.asarray(palette.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clear = open_image(ImageRef(data=encoded("PNG", palette, transparency=bytes(range(16)))))
        assert np.array_equal(np.asarray(clear), seen)
        for mode in ("1", "L", "LA", "RGBA"):
            image = open_image(ImageRef(data=encoded("PNG", Image.new(mode, (5, 4)))))
            assert (image.mode, image.size) == ("RGB", (5, 4))
        cmyk = open_image(ImageRef(data=encoded("JPEG", Image.new("CMYK", (5, 4)))))
        assert cmyk.mode == "RGB"


def test_sixteen_bits_keep_their_shades():
    steps = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    image = open_image(ImageRef(data=encoded("PNG", Image.fromarray(steps))))
    assert np.asarray(image)[..., 0].ravel().tolist() == [16 * i for i in range(16)]


def test_pictures_are_not_turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    data = encoded("JPEG", Image.new("RGB", (8, 4)), exif=exif)
    assert open_image(ImageRef(data=data)).size == probe(ImageRef(data=data), True)[:2] == (8, 4)


def test_base_folder(tmp_path):
    assert base_folder(str(tmp_path / "a.json")) == tmp_path
    assert base_folder(str(tmp_path)) == tmp_path
