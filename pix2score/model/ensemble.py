"""Several networks that answer as one: an ensemble. Shapes: B images, A outputs, D embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.model.members import Member
from pix2score.model.network import MultiHeadModel, renormalised
from pix2score.model.pooling import calibrated, pooled


class EnsembleModel(nn.Module):
    """Outputs are the means of the members' calibrated answers; the embedding is the first member's."""

    def __init__(self, members: Sequence[Member], heads: Sequence[HeadSpec], preprocess: Preprocess) -> None:
        """``preprocess``: how the pixels that come in were normalised."""
        super().__init__()
        self._about, self._heads, self._preprocess = tuple(members), tuple(heads), preprocess
        self.members = nn.ModuleList(
            MultiHeadModel(
                m.backbone,
                _of(m, heads),
                size=preprocess.size,
                hidden=m.hidden,
                embedding_dtype=m.embedding_dtype,
            )
            for m in members
        )

    @property
    def trunk(self) -> nn.Module:
        """That of the embedding."""
        first = self.members[0]
        assert isinstance(first, MultiHeadModel)
        return first.trunk

    def forward(self, image_BCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Head -> outputs [B, A], and the embedding [B, D]; input as ``normalise`` gives it."""
        answers = [
            network(renormalised(image_BCHW, self._preprocess, about))
            for network, about in zip(self.members, self._about, strict=True)
        ]
        return {head.name: self._pooled(head, [a[0] for a in answers]) for head in self._heads}, answers[0][1]

    def _pooled(self, head: HeadSpec, outputs: Sequence[dict[str, Tensor]]) -> Tensor:
        found = [
            calibrated(head, said[head.name], about.calibrations[head.name])
            for said, about in zip(outputs, self._about, strict=True)
        ]
        return pooled(head, found, [about.shares[head.name] for about in self._about])


def _of(member: Member, heads: Sequence[HeadSpec]) -> list[HeadSpec]:
    return [replace(head, loss=member.losses[head.name]) for head in heads]
