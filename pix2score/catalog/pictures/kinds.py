"""What a file is by its name: a picture that is decoded here, or something that is left out, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from pix2score.errors import ConfigError
from pix2score.images.formats.refusals import FORMATS

NO_SUFFIX = "none"
_SUFFIX_SQL = r"lower(regexp_extract(file, '\.([^./\\\s]{1,12})$', 1))"
_HIDDEN = r"(^|/)\."
_TEMPORARY = (
    r"(?i)(^|/)(_temporary|_tmp|__macosx|@eadir|\$recycle\.bin|lost\+found)/|(^|/)(~\$[^/]*|thumbs\.db|"
    r"desktop\.ini)$|(~|\.(tmp|temp|part|partial|filepart|crdownload|download|aria2|inprogress))$"
)
ARCHIVE = r"(?i)\.(tar|tgz|tar\.gz|zip)$"
"""Names of archives that are read."""
_ANIMATION = r"(?i)ugoira[^/]*\.zip$"
_KINDS = {
    "video": "mp4 m4v webm mov avi mkv wmv flv mpg mpeg ts m2ts ogv 3gp swf",
    "archive": "tar tgz gz bz2 tbz xz txz zst zip cbz cbr 7z rar",
    "text beside pictures": "txt json jsonl ndjson xml csv tsv yaml yml xmp caption tags cls html htm md nfo",
    "picture that is not decoded": (
        "heic heif jxl jp2 j2k jpx psd psb svg svgz ico cur tga dds exr hdr qoi ppm pgm pbm pnm pcx eps ai "
        "pdf clip sai sai2 kra xcf ora raw cr2 cr3 nef arw dng raf rw2 orf avif webp"
    ),
    "table or model": "parquet pq arrow feather npy npz pt pth ckpt safetensors onnx db sqlite lance h5 pkl",
    "sound": "mp3 wav flac ogg m4a aac",
}


def picture_suffixes(asked: Sequence[str]) -> tuple[str, ...]:
    """Suffixes of pictures without their dot, in lower case; of every decoded format if none is asked for.

    Raises ``ConfigError`` for what can be no suffix.
    """
    if not asked:
        known = Image.registered_extensions()
        return tuple(sorted(suffix[1:] for suffix, name in known.items() if name in FORMATS))
    for word in asked:
        if not re.fullmatch(r"\.?[^./\\\s]{1,12}", word):
            raise ConfigError(f"suffix {word!r}: expected one such as .jpg, or {NO_SUFFIX}")
    return tuple("" if word == NO_SUFFIX else word.removeprefix(".").lower() for word in asked)


def suffix_sql() -> str:
    """SQL: the suffix of the column ``file`` without its dot, in lower case; empty if there is none."""
    return _SUFFIX_SQL


def reason_sql(suffixes: Sequence[str]) -> str:
    """SQL: why a row with ``path``, ``suffix`` and ``note`` is no picture; null if it is one."""
    kinds = "".join(
        f"WHEN suffix IN ({_words(words.split())}) THEN '{kind}' " for kind, words in _KINDS.items()
    )
    return (
        "CASE WHEN note IS NOT NULL THEN note "
        "WHEN path = '' OR suffix(path, '/') THEN 'folder marker' "
        f"WHEN regexp_matches(path, '{_HIDDEN}') THEN 'hidden' "
        f"WHEN regexp_matches(path, '{_TEMPORARY}') THEN 'temporary' "
        f"WHEN suffix IN ({_words(suffixes)}) THEN NULL "
        f"WHEN regexp_matches(path, '{_ANIMATION}') THEN 'animation' {kinds}"
        "WHEN suffix = '' THEN 'name without suffix' ELSE 'other' END"
    )


def is_hidden(path: str) -> bool:
    """Whether a name in an archive is hidden or temporary."""
    return bool(re.search(_HIDDEN, path) or re.search(_TEMPORARY, path))


def suffix_of(path: str) -> str:
    """As ``suffix_sql``."""
    found = re.search(r"\.([^./\\\s]{1,12})$", path)
    return found[1].lower() if found else ""


def _words(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
