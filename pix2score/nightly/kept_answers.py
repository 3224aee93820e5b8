"""Answers that stay though their images have new content: where that cannot be had tonight."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.errors import MAX_NIGHTS, RETRIED_ERROR_CODES
from pix2score.snapshots.tables import OK
from pix2score.storage.sql import in_memory, numbered


def keep_answers(live: pa.Table, changed: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables, where a row of ``live`` with an answer stays whose new content cannot be had.

    For as many nights as that is tried. It stays as it is, with its fingerprint, run and embedding;
    ``error_code``, ``error_detail`` and ``attempts`` tell of the failure, and the failed row of ``changed``
    goes.
    """
    pairs = _answered(live, changed)
    if not pairs.num_rows:
        return live, changed
    stays, fails = (pairs.column(name).to_numpy() for name in ("stays", "fails"))
    source = np.arange(live.num_rows)
    source[stays] = live.num_rows + fails
    for name in ("error_code", "error_detail", "attempts"):
        both = pa.chunked_array(
            [*live.column(name).chunks, *changed.column(name).chunks], live.column(name).type
        )
        live = live.set_column(
            live.schema.get_field_index(name), live.schema.field(name), both.take(pa.array(source))
        )
    is_left = np.ones(changed.num_rows, dtype=bool)
    is_left[fails] = False
    return live, changed.filter(pa.array(is_left))


def _answered(live: pa.Table, changed: pa.Table) -> pa.Table:
    """Positions of ok rows of ``live`` (``stays``) and of failed rows of ``changed`` (``fails``) for them."""
    is_passing = pc.and_(
        pc.is_in(changed.column("error_code"), pa.array(RETRIED_ERROR_CODES)),
        pc.less(changed.column("attempts"), MAX_NIGHTS),
    )
    failed = np.flatnonzero(is_passing.to_numpy(zero_copy_only=False))
    if not len(failed) or not live.num_rows:
        return pa.table({"stays": pa.array([], pa.int64()), "fails": pa.array([], pa.int64())})
    fails = changed.select(list(KEY)).take(pa.array(failed)).append_column("fails", pa.array(failed))
    sql = (
        f"SELECT position AS stays, fails FROM live JOIN failed USING (illust_id, page) WHERE status = '{OK}'"
    )
    return in_memory(sql, live=numbered(live, *KEY, "status"), failed=fails)
