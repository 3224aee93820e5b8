"""The drawn catalog: the same bytes for a seed, every format and trouble in it, and labels that the pixels
explain."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat, UnidentifiedImageError

from pix2score.demo.catalog import SCHEMA, DrawnCatalog, draw_catalog
from pix2score.demo.drawing import Traits, paint, trait_scores
from pix2score.demo.formats import FORMATS, encode_as
from pix2score.demo.labels import draw_labels

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
BOOKMARK_EDGES = (10, 30, 50, 70, 100, 130, 170, 220, 300, 400, 550, 800, 1300, 2700)
VIEW_RANGE = (500, 35_000)
SANITY_EDGES = (2, 4, 6, 7)
STORED_AS = {
    "png_rgb": ("PNG", "RGB"),
    "png_alpha": ("PNG", "RGBA"),
    "png_palette": ("PNG", "P"),
    "png_grey": ("PNG", "L"),
    "png_grey16": ("PNG", "I;16"),
    "jpeg": ("JPEG", "RGB"),
    "jpeg_progressive": ("JPEG", "RGB"),
    "jpeg_cmyk": ("JPEG", "CMYK"),
    "jpeg_orientation_6": ("JPEG", "RGB"),
    "jpeg_orientation_8": ("JPEG", "RGB"),
    "webp": ("WEBP", "RGB"),
    "gif_animated": ("GIF", "P"),
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnCatalog:
    return draw_catalog(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def rows(drawn: DrawnCatalog) -> list[Row]:
    table = pq.read_table(Path(drawn.uri) / "catalog.parquet")
    assert table.schema.equals(SCHEMA)
    rows: list[Row] = table.to_pylist()
    return rows


def displayed(path: Path) -> Image.Image:
    """The picture as a viewer shows it: upright, over white, first frame, 8 bits."""
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored)
        if upright.mode == "I;16":
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.mode == "RGBA":
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright)
        return upright.convert("RGB")


@pytest.fixture(scope="session")
def sound(drawn: DrawnCatalog, rows: list[Row]) -> list[tuple[Row, Floats]]:
    """Rows whose file decodes and that carry each label, with their pixels squashed to [64, 64, 3] in [0,
    1]."""
    latest = {
        (r["illust_id"], r["page"]): r for r in sorted(rows, key=lambda r: r["updated_at"]) if r["illust_id"]
    }
    pairs = []
    for row in latest.values():
        if None in row.values() or row["bookmarks"] < 0:
            continue
        try:
            small = displayed(Path(drawn.uri) / row["uri"]).resize((64, 64), Image.Resampling.BOX)
        except OSError:
            continue
        pairs.append((row, np.asarray(small, dtype=np.float64) / 255))
    return pairs


def spearman(left: Floats, right: Floats) -> float:
    """Rank correlation; ties get an arbitrary order, which costs little with hundreds of values."""
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def column(sound: list[tuple[Row, Floats]], name: str) -> Floats:
    return np.array([row[name] for row, _ in sound], dtype=np.float64)


def out_of_fold_ridge(features: Floats, target: Floats, groups: list[str], penalty: float) -> Floats:
    """Ridge predictions for each row by a fit on the other groups, five folds."""
    fold = np.array([int(hashlib.md5(group.encode()).hexdigest(), 16) % 5 for group in groups])
    predicted = np.zeros(len(target))
    for held in range(5):
        train = fold != held
        mean, offset = features[train].mean(0), target[train].mean()
        x = features[train] - mean
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (target[train] - offset))
        predicted[~train] = (features[~train] - mean) @ weights + offset
    return predicted


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    for folder, seed in ((first, 7), (second, 7), (other, 8)):
        draw_catalog(folder, num_pictures=24, seed=seed)
    assert tree(first) == tree(second)
    assert tree(first)["catalog.parquet"] != tree(other)["catalog.parquet"]


def test_drawing_again_over_a_catalog_changes_nothing(tmp_path: Path) -> None:
    drawn = draw_catalog(tmp_path, num_pictures=3)
    before = tree(tmp_path)
    assert draw_catalog(tmp_path, num_pictures=3) == drawn
    assert tree(tmp_path) == before


def test_counts_are_those_of_the_files_and_rows(drawn: DrawnCatalog, rows: list[Row]) -> None:
    assert drawn.num_rows == len(rows)
    assert drawn.num_files == len(tree(Path(drawn.uri) / "images"))
    assert sum(drawn.formats.values()) == 360
    assert drawn.broken == {"EMPTY": 1, "TRUNCATED": 2, "UNSUPPORTED": 1, "NOT_FOUND": 1, "FORBIDDEN": 1}


def test_twelve_pictures_show_every_format(tmp_path: Path) -> None:
    assert draw_catalog(tmp_path, num_pictures=12).formats == dict.fromkeys(FORMATS, 1)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_stored_as_promised_and_displays_upright(name: str, tmp_path: Path) -> None:
    traits = Traits(warm=0.9, vivid=0.8, subject=0.6, busy=0.7, skin=0.6)
    picture = paint(traits.in_grey() if FORMATS[name].grey else traits, (150, 210), np.random.default_rng(0))
    path = tmp_path / f"picture.{FORMATS[name].extension}"
    path.write_bytes(encode_as(picture, name))
    with Image.open(path) as stored:
        assert (stored.format, stored.mode) == STORED_AS[name]
        assert getattr(stored, "is_animated", False) == (name == "gif_animated")
        assert bool(stored.info.get("progressive")) == (name == "jpeg_progressive")
        assert stored.getexif().get(0x0112, 1) == (int(name[-1]) if "orientation" in name else 1)
        assert stored.size == ((210, 150) if "orientation" in name else (150, 210))
    expected = picture.convert("L").convert("RGB") if FORMATS[name].grey else picture
    middle = (20, 40, 130, 170)  # the corners of png_alpha are cut
    difference = ImageChops.difference(displayed(path).crop(middle), expected.crop(middle))
    assert max(ImageStat.Stat(difference).mean) < 8


def test_alpha_hides_black_corners(tmp_path: Path) -> None:
    picture = paint(Traits(warm=1, vivid=1, subject=0.5, busy=0, skin=0), (90, 90), np.random.default_rng(0))
    (tmp_path / "picture.png").write_bytes(encode_as(picture, "png_alpha"))
    with Image.open(tmp_path / "picture.png") as stored:
        assert stored.getpixel((0, 0)) == (0, 0, 0, 0)
        assert stored.getpixel((45, 5))[3] == 255


def test_sixteen_bit_grey_uses_the_high_byte(tmp_path: Path) -> None:
    picture = paint(Traits(warm=1, vivid=0, subject=0.5, busy=0, skin=0), (90, 90), np.random.default_rng(0))
    (tmp_path / "picture.png").write_bytes(encode_as(picture, "png_grey16"))
    with Image.open(tmp_path / "picture.png") as stored:
        assert np.asarray(stored).max() > 255 * 200


def test_sizes_run_from_forty_to_three_thousand_pixels(drawn: DrawnCatalog) -> None:
    sides = []
    for path in (Path(drawn.uri) / "images").rglob("*"):
        if path.is_file():
            try:
                with Image.open(path) as stored:
                    sides.append(max(stored.size))
            except UnidentifiedImageError:
                continue
    assert min(sides) == 40
    assert max(sides) == 3000
    assert np.mean(np.array(sides) <= 400) > 0.85


def test_broken_rows_fail_the_way_their_code_says(drawn: DrawnCatalog, rows: list[Row]) -> None:
    failures = []
    for row in rows:
        path = Path(drawn.uri) / row["uri"]
        if row["uri"].startswith(".."):
            failures.append("FORBIDDEN")
        elif not path.exists():
            failures.append("NOT_FOUND")
        elif not path.stat().st_size:
            failures.append("EMPTY")
        else:
            try:
                with Image.open(path) as stored:
                    stored.load()
                continue
            except UnidentifiedImageError:
                failures.append("UNSUPPORTED")
            except OSError as problem:
                assert "truncated" in str(problem)
                failures.append("TRUNCATED")
        assert row["bookmarks"] is not None or row["views"] is not None
    assert {code: failures.count(code) for code in failures} == drawn.broken


def test_etag_is_the_md5_of_the_file(drawn: DrawnCatalog, rows: list[Row]) -> None:
    for row in rows:
        path = Path(drawn.uri) / row["uri"]
        if path.exists():
            assert row["etag"] == hashlib.md5(path.read_bytes()).hexdigest()
        assert len(row["etag"]) == 32


def test_one_key_occurs_twice_and_one_id_is_missing(rows: list[Row]) -> None:
    keys = [(row["illust_id"], row["page"]) for row in rows if row["illust_id"] is not None]
    assert len(keys) == len(rows) - 1
    (twice,) = [key for key in set(keys) if keys.count(key) == 2]
    older, newer = sorted(
        (r for r in rows if (r["illust_id"], r["page"]) == twice), key=lambda r: r["updated_at"]
    )
    assert older["updated_at"] < newer["updated_at"]
    assert (older["bookmarks"], older["views"]) == (0, 0) and newer["bookmarks"] > 0
    assert (older["uri"], older["etag"]) == (newer["uri"], newer["etag"])
    assert len(set(keys)) == len(keys) - 1


def test_pages_of_a_work_share_their_labels_and_not_their_pixels(rows: list[Row]) -> None:
    works: dict[int, list[Row]] = {}
    for row in {
        (r["illust_id"], r["page"]): r for r in rows if r["illust_id"] and r["bookmarks"] != 0
    }.values():
        works.setdefault(row["illust_id"], []).append(row)
    sets = [sorted(pages, key=lambda r: r["page"]) for pages in works.values() if len(pages) > 1]
    assert {len(pages) for pages in sets} == {2, 3, 4}
    for pages in sets:
        assert [row["page"] for row in pages] == list(range(len(pages)))
        assert len({(r["artist_id"], r["bookmarks"], r["views"], r["sanity"]) for r in pages}) == 1
        assert len({row["etag"] for row in pages}) == len(pages)


def test_labels_have_gaps_and_one_negative_count(rows: list[Row]) -> None:
    for name in ("bookmarks", "views", "sanity"):
        assert 0 < sum(row[name] is None for row in rows) < 25
    assert [row["bookmarks"] for row in rows if (row["bookmarks"] or 0) < 0] == [-1]
    assert 60 <= len({row["artist_id"] for row in rows}) <= 90


def test_counts_are_heavy_tailed_and_fill_every_bin(sound: list[tuple[Row, Floats]]) -> None:
    bookmarks, views, sanity = (column(sound, name) for name in ("bookmarks", "views", "sanity"))
    assert 150 < np.median(bookmarks) < 400 and 3000 < np.median(views) < 7000
    assert bookmarks.mean() > 2 * np.median(bookmarks)
    assert np.bincount(np.digitize(bookmarks, BOOKMARK_EDGES), minlength=15).min() >= 5
    assert np.bincount(np.digitize(views, VIEW_RANGE), minlength=3).min() >= 5
    assert np.bincount(np.digitize(sanity, SANITY_EDGES), minlength=5).min() >= 15
    assert (views >= bookmarks).all()


@pytest.mark.parametrize("name", ["bookmarks", "views"])
def test_trait_scores_explain_the_counts_at_a_spearman_of_about_0_8(name: str) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (3000, 5))
    traits = [Traits(warm=a, vivid=b, subject=c, busy=d, skin=e) for a, b, c, d, e in values]
    labels = draw_labels(traits, np.random.default_rng(1))
    known = [i for i, row in enumerate(labels) if (row[name] or -1) >= 0]
    counts = np.array([labels[i][name] for i in known], dtype=np.float64)
    assert spearman(trait_scores(traits)[name][known], counts) == pytest.approx(0.8, abs=0.03)


def test_what_pixels_show_goes_with_the_labels(sound: list[tuple[Row, Floats]]) -> None:
    pixels = np.stack([squashed for _, squashed in sound])
    red, green, blue = np.moveaxis(pixels, 3, 0)
    saturation = (pixels.max(3) - pixels.min(3)).mean((1, 2))
    pink = ((red > 0.88) & (abs(green - blue) < 0.09) & (red - green > 0.2) & (green > 0.5)).mean((1, 2))
    contrast = pixels.mean(3).std((1, 2))
    assert spearman(saturation, column(sound, "bookmarks")) > 0.3
    assert spearman(contrast, column(sound, "views")) > 0.3
    assert spearman(pink, column(sound, "sanity")) > 0.8


@pytest.mark.parametrize("name,least", [("bookmarks", 0.5), ("views", 0.4), ("sanity", 0.7)])
def test_ridge_on_eight_by_eight_pixels_predicts_unseen_artists(
    name: str, least: float, sound: list[tuple[Row, Floats]]
) -> None:
    blocks = np.stack([squashed.reshape(8, 8, 8, 8, 3).mean((1, 3)).ravel() for _, squashed in sound])
    target = column(sound, name) if name == "sanity" else np.log1p(column(sound, name))
    predicted = out_of_fold_ridge(blocks, target, [row["artist_id"] for row, _ in sound], penalty=10)
    achieved = spearman(predicted, target)
    print(f"{name}: {achieved:.3f} over {len(sound)} pictures")
    assert achieved >= least
