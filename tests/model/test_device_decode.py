"""JPEGs decoded on the model's device: which ones, how far from ``to_rgb``; no other is lost.

Here the device is a CPU; ``test_gpu.py`` has the bound on a GPU.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pix2score.benchmark.decode import pillow
from pix2score.benchmark.pictures import SETS, encoded, photograph
from pix2score.catalog.contents import ImageRows
from pix2score.cluster.decode import fetch_and_decode
from pix2score.errors import ConfigError
from pix2score.images.columns import ENCODED
from pix2score.images.decode import to_rgb
from pix2score.images.formats.jpeg import SCAN, segments
from pix2score.images.formats.plain_jpeg import MAX_PLAIN_PIXELS, as_plain_jpeg
from pix2score.images.preprocess import Preprocess
from pix2score.images.source import image_source
from pix2score.model.device_decode import CHUNK, CHUNK_PIXELS, DeviceDecoder, chunks, decoder_on
from pix2score.score.config import ScoreConfig
from pix2score.score.device_rows import DeviceRows

PREPROCESS = Preprocess(size=64)
MEAN_BOUND, P99_BOUND = 2.0, 4.0  # of 255, as between ``to_rgb`` and a whole decode by Pillow


def saved(image: Image.Image, form: str = "JPEG", **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def drawing(seed: int = 0, side: int = 200) -> Image.Image:
    return photograph(np.random.default_rng(seed), side, side * 3 // 4)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def headless(data: bytes) -> bytes:
    """A JPEG whose header reads well, and that holds no picture."""
    return data[: data.index(b"\xff\xda")] + b"\xff\xd9"


def tableless(data: bytes) -> bytes:
    """A JPEG whose header reads well and whose scan no decoder can read: it lacks its quantisation tables."""
    start = data.index(b"\xff\xdb")
    tables = [segment for segment in segments(data) if segment.marker == 0xDB]
    return data[:start] + data[tables[-1].end :]


def scanless(data: bytes) -> bytes:
    """A JPEG whose scan begins and holds nothing."""
    (scan,) = (segment for segment in segments(data) if segment.marker == SCAN)
    return data[: scan.end] + b"\xff\xd9"


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("side", [300, pytest.param(1200, marks=pytest.mark.slow)])
def test_pixels_are_within_the_bound_of_those_of_every_other_path(kind: str, side: int) -> None:
    rng, preprocess = np.random.default_rng(3), Preprocess(size=224)
    files = [encoded(SETS[kind](rng, side, side)) for _ in range(20)]
    found = list(DeviceDecoder(preprocess, "cpu")(files))
    apart = [
        np.abs(ours.astype(int) - to_rgb(data, preprocess)).mean()
        for ours, data in zip(found, files, strict=True)
    ]
    assert np.mean(apart) <= MEAN_BOUND
    assert np.quantile(apart, 0.99) <= P99_BOUND


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("size", [32, 64, 224])
def test_pixels_are_those_of_a_whole_decode_with_an_antialiased_resize(kind: str, size: int) -> None:
    files = [encoded(SETS[kind](np.random.default_rng(3), side, side * 3 // 4)) for side in (100, 300, 1200)]
    for ours, data in zip(DeviceDecoder(Preprocess(size=size), "cpu")(files), files, strict=True):
        assert np.abs(ours.astype(int) - pillow(data, size)).mean() <= 0.5


def test_what_needs_more_than_decoding_is_left_to_the_cpu() -> None:
    picture = drawing()
    plain = saved(picture)
    for taken in (
        plain,
        saved(picture, progressive=True),
        saved(picture.convert("L")),
        saved(picture, exif=exif(1)),
        plain + bytes(8),
        saved(picture.crop((0, 0, 1, 1))),
        saved(Image.new("L", (801, 803)), optimize=True, progressive=True),
    ):
        assert as_plain_jpeg(taken) == taken
    for left in (
        b"",
        plain[:40],
        plain[:-40],
        plain[:3] + bytes(200) + plain[-2:],
        saved(picture, "PNG"),
        saved(picture.convert("CMYK")),
        saved(picture, exif=exif(6)),
        saved(picture, exif=exif(3)),
        saved(picture, keep_rgb=True),
        headless(plain),
        scanless(plain),
    ):
        assert as_plain_jpeg(left) is None
    assert as_plain_jpeg(plain, least_side=150) == plain, "200 x 150 px"
    assert as_plain_jpeg(plain, least_side=151) is None
    side = int(MAX_PLAIN_PIXELS**0.5) + 8
    assert as_plain_jpeg(saved(Image.new("L", (side, side)))) is None


def test_one_that_the_codec_refuses_costs_no_other() -> None:
    good = [saved(drawing(i)) for i in range(3)]
    first, bad, second, third = DeviceDecoder(PREPROCESS, "cpu")(
        [good[0], headless(good[0]), good[1], good[2]]
    )
    assert bad is None
    for ours, data in zip((first, second, third), good, strict=True):
        assert ours is not None
        assert np.abs(ours.astype(int) - to_rgb(data, PREPROCESS)).mean() <= MEAN_BOUND
    assert list(DeviceDecoder(PREPROCESS, "cpu")([])) == []
    assert list(DeviceDecoder(PREPROCESS, "cpu")([headless(good[0])])) == [None]


def test_rows_are_what_they_are_without_it(tmp_path: Path) -> None:
    contents = {
        "plain.jpg": saved(drawing(1)),
        "turned.jpg": saved(drawing(2), exif=exif(8)),
        "cut.jpg": saved(drawing(3))[:-500],
        "headless.jpg": headless(saved(drawing(4))),
        "tableless.jpg": tableless(saved(drawing(7))),
        "other.png": saved(drawing(5), "PNG"),
        "html.jpg": b"<html>",
        "grey.jpg": saved(drawing(6).convert("L")),
        "small.jpg": saved(drawing(8, side=64)),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    rows = pa.table({"uri": [*contents, "missing.jpg"]})
    images = ImageRows(image_source(str(tmp_path), ()), None, None, {})
    expected = fetch_and_decode(rows, images=images, task=PREPROCESS)
    kept = fetch_and_decode(rows, images=images, task=PREPROCESS, gpu_decode=True)
    num_there = len(rows) - kept.column("data").null_count
    assert kept.column("data").nbytes < (num_there + 1) * PREPROCESS.size**2 * 3, "a null takes no room"
    assert [data is not None for data in kept.column(ENCODED).to_pylist()] == [
        name in ("plain.jpg", "tableless.jpg", "grey.jpg") for name in rows.column("uri").to_pylist()
    ]
    found = DeviceRows(PREPROCESS, DeviceDecoder(PREPROCESS, "cpu"))(kept)
    assert found.schema.equals(expected.schema)
    for mine, theirs in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        assert {k: mine[k] for k in ("uri", "error_code", "error_detail", "num_bytes")} == {
            k: theirs[k] for k in ("uri", "error_code", "error_detail", "num_bytes")
        }
        if theirs["data"] is None:
            assert mine["data"] is None
        else:
            ours, other = (np.frombuffer(row["data"], np.uint8).astype(int) for row in (mine, theirs))
            assert np.abs(ours - other).mean() <= MEAN_BOUND


def test_rows_of_which_none_or_only_jpegs_came(tmp_path: Path) -> None:
    images = ImageRows(image_source(str(tmp_path), ()), None, None, {})
    decode = DeviceRows(PREPROCESS, DeviceDecoder(PREPROCESS, "cpu"))
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(saved(drawing(i)))
        (tmp_path / f"{i}.png").write_bytes(saved(drawing(i), "PNG"))
    for ending in ("jpg", "png"):
        kept = fetch_and_decode(
            pa.table({"uri": [f"{i}.{ending}" for i in range(3)]}),
            images=images,
            task=PREPROCESS,
            gpu_decode=True,
        )
        assert decode(kept.slice(1)).column("data").null_count == 0
        assert decode(kept.slice(0, 0)).num_rows == 0


def test_a_hundred_pictures_and_more_are_decoded_together_unless_they_are_large() -> None:
    assert CHUNK >= 100
    small, large = saved(drawing(side=64)), saved(Image.new("RGB", (5000, 5000)))
    assert [len(chunk) for chunk in chunks([small] * (CHUNK + 4))] == [CHUNK, 4]
    together = CHUNK_PIXELS // 5000**2
    assert [len(chunk) for chunk in chunks([large] * (together + 1))] == [together, 1]
    assert [len(chunk) for chunk in chunks([b"no header", small])] == [2]
    assert list(chunks([])) == []


def test_torchcodec_and_torchvision_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchcodec")
    files = [saved(drawing(seed, side), quality=90) for seed, side in ((1, 64), (2, 301), (3, 900))]
    now = decoder_on(torch.device("cpu"))(files)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    before = decoder_on(torch.device("cpu"))(files)
    for ours, theirs in zip(now, before, strict=True):
        assert ours.dtype == torch.uint8
        assert torch.equal(ours, theirs)
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(ConfigError, match=r"needs torchcodec.*pip install 'pix2score\[gpu\]'"):
        decoder_on(torch.device("cpu"))


def test_one_refused_picture_takes_no_other_with_it() -> None:
    files = [saved(drawing(seed)) for seed in range(5)]
    files[2] = tableless(files[2])
    found = list(DeviceDecoder(PREPROCESS, "cpu")(files))
    assert [pixels is None for pixels in found] == [False, False, True, False, False]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="squashes"):
        DeviceDecoder(Preprocess(size=64, resize="pad"), "cpu")
    with pytest.raises(ConfigError, match="decode gpu and device cpu"):
        ScoreConfig(catalog="c", model="m", out="o", decode="gpu", device="cpu")
