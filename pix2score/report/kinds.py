"""The pages of a head, by its kind."""

from __future__ import annotations

from collections.abc import Mapping

from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.distribution_labels import DISTRIBUTION
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.preference import PREFERENCE
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tag_labels import TAGS
from pix2score.heads.value_labels import VALUE
from pix2score.report.binary import BinaryPage
from pix2score.report.classes import ClassesPage
from pix2score.report.distribution import DistributionPage
from pix2score.report.ordered import OrderedPage
from pix2score.report.preference import PreferencePage
from pix2score.report.protocol import KindPage
from pix2score.report.tags import TagsPage
from pix2score.report.value import ValuePage

_ORDERED = OrderedPage()
PAGES: Mapping[str, KindPage] = {
    BINS: _ORDERED,
    LEVELS: _ORDERED,
    BINARY: BinaryPage(),
    VALUE: ValuePage(),
    DISTRIBUTION: DistributionPage(),
    CLASSES: ClassesPage(),
    TAGS: TagsPage(),
    PREFERENCE: PreferencePage(),
}


def page_of(head: HeadSpec) -> KindPage:
    """The pages of a head's kind."""
    return PAGES[head.kind]
