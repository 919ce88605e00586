"""The selector of clusters of tokens."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saei.entropy.selectors.base import Selector, TokenStats

MOST_ROUNDS = 100
"""Rounds after which clusters are taken as they are; they settle in far fewer."""


class KMeans(Selector):
    """Split a response's tokens into k clusters by entropy and surprise, and keep some of the clusters.

    The surprise of a token is its negative log-probability: a token may be unlikely where little was open, and likely
    where much was. Both are in nats and not scaled. Lloyd's algorithm goes on until no token changes its cluster; a
    token as near to two centres belongs to the first of them. It starts twice, and nothing is random: from the middles
    of k equal parts of the different points in their order, and from points each of which is the farthest from those
    before. The result with the smaller sum of squared distances counts, of equal ones the first. Equal points are never
    separated. A response with fewer than k different points is kept whole. By entropy alone the best three clusters are
    those that ``adaptive`` finds exactly.

    Source: Lloyd (1982); its use here is original.
    """

    class Config(Selector.Config):
        """Fields.

        Attributes:
            k: Number of clusters.
            keep: Numbers of the clusters that are kept, from 0, in ascending order of the first feature's mean.
            features: What tokens are clustered by, in nats.
        """

        type: Literal["k-means"] = "k-means"
        k: int = Field(default=3, ge=2, le=64)
        keep: tuple[int, ...] = Field(default=(1,), min_length=1)
        features: tuple[Literal["entropy", "surprise"], ...] = Field(default=("entropy", "surprise"), min_length=1)

        @model_validator(mode="after")
        def _keeps_some(self) -> Self:
            if not set(self.keep) < set(range(self.k)):
                raise ValueError(
                    f"k-means keeps some of its clusters 0 to {self.k - 1}, and not all; got keep={list(self.keep)}."
                )
            for name, values in (("keep", self.keep), ("features", self.features)):
                if len(set(values)) < len(values):
                    raise ValueError(
                        f"k-means names each once in {name}: a second time changes nothing. Got {list(values)}."
                    )
            return self

    config: Config

    def select(self, stats: TokenStats, *, progress: float, generator: torch.Generator) -> Tensor:
        """Return the mask of the kept clusters."""
        of_feature = {"entropy": stats.entropy_NT, "surprise": -stats.logp_NT}
        points_NTd = torch.stack([of_feature[name] for name in self.config.features], dim=-1)
        mask_NT = self.candidates(stats).clone()
        for mask_T, points_Td in zip(mask_NT, points_NTd, strict=True):
            number = clusters(points_Td[mask_T], self.config.k)
            if number is not None:
                mask_T[mask_T.clone()] = torch.isin(number, torch.tensor(self.config.keep)).to(mask_T.device)
        return mask_NT


def clusters(points_Md: Tensor, k: int) -> Tensor | None:
    """Return the number of each point's cluster on the CPU, None for fewer than k different points.

    Args:
        points_Md: M points of d features.
        k: Number of clusters; they are numbered by their centres' first feature.
    """
    points_Md = points_Md.detach().double().cpu()
    distinct_md, place_M, count_m = points_Md.unique(dim=0, return_inverse=True, return_counts=True)
    if len(distinct_md) < k:
        return None
    middles = [(2 * i + 1) * len(distinct_md) // (2 * k) for i in range(k)]
    results = [_lloyd(distinct_md, count_m, distinct_md[start]) for start in (middles, _far_apart(distinct_md, k))]
    _, cluster_m, centre_kd = min(results, key=lambda result: result[0])
    number_k = centre_kd[:, 0].argsort(stable=True).argsort()
    numbers: Tensor = number_k[cluster_m[place_M]]
    return numbers


def _far_apart(points_md: Tensor, k: int) -> list[int]:
    """Return the places of k points: the first, then each time the one that is farthest from those before."""
    places = [0]
    while len(places) < k:
        nearest_m = (points_md[:, None] - points_md[places]).square().sum(-1).amin(1)
        places.append(int(nearest_m.argmax()))
    return places


def _lloyd(points_md: Tensor, count_m: Tensor, centre_kd: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return the sum of squared distances, each point's cluster, and the centres.

    Args:
        points_md: Different points.
        count_m: How often each occurs.
        centre_kd: The centres to start from.
    """
    cluster_m = torch.full((len(points_md),), -1)
    for _ in range(MOST_ROUNDS):
        squared_mk = (points_md[:, None] - centre_kd).square().sum(-1)
        before_m, cluster_m = cluster_m, squared_mk.argmin(1)
        if torch.equal(before_m, cluster_m):
            break
        weight_km = (cluster_m == torch.arange(len(centre_kd))[:, None]) * count_m
        total_k1 = weight_km.sum(1, keepdim=True)
        mean_kd = weight_km.double() @ points_md / total_k1.clamp_min(1)
        centre_kd = torch.where(total_k1 > 0, mean_kd, centre_kd)  # a cluster that lost its points stays where it was
    return float((squared_mk.amin(1) * count_m).sum()), cluster_m, centre_kd
