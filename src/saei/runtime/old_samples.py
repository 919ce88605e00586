"""Samples as earlier versions kept them: lines in ``samples.jsonl`` and ``views.jsonl``, pictures in ``images/``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from saei.runtime.files import read_jsonl
from saei.runtime.samples import GroupSample, ResponseSample, ViewSample
from saei.types import CLEAN, Distance

IMAGES = "images"
NAME = re.compile(r"step-(\d+)-(\d+)-(.+)-(\d+)-([^-]+)-(\d+)\.png")
"""Step, number of the group, example, number of the view, origin, number of the picture."""


def read_old_samples(run: Path) -> list[GroupSample]:
    """Return the groups that an older version kept, as far as its lines tell; lines that lack a field are left out."""
    lines = [line for line in read_jsonl(run / "samples.jsonl") if _whole(line)]
    views: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for line in read_jsonl(run / "views.jsonl"):
        views.setdefault((line.get("step"), line.get("example")), []).append(line)
    pictures = _pictures(run)
    groups = []
    for step, of_step in groupby(lines, key=lambda line: int(line["step"])):
        for number, of_group in enumerate(_groups(of_step)):
            made = views.get((step, of_group[0]["example"]), [])
            groups.append(_group(step, number, of_group, made, pictures.get((step, number), {})))
    return groups


def _whole(line: Mapping[str, Any]) -> bool:
    texts = all(isinstance(line.get(name), str) for name in ("example", "question", "answer", "origin", "text"))
    return texts and isinstance(line.get("step"), int) and isinstance(line.get("reward"), int | float)


def _groups(lines: Iterator[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the lines of a step by their groups: those of one example stand together."""
    return [list(of_group) for _, of_group in groupby(lines, key=lambda line: line["example"])]


def _group(
    step: int,
    number: int,
    lines: list[dict[str, Any]],
    made: list[dict[str, Any]],
    pictures: Mapping[int, list[bytes]],
) -> GroupSample:
    first = lines[0]
    origins = list(dict.fromkeys([CLEAN, *(line["origin"] for line in lines)]))
    views = []
    for view, origin in enumerate(origins):
        line = next((each for each in made if each.get("view") == view), {})
        drawn = next((each for each in lines if each["origin"] == origin), first)
        views.append(
            ViewSample(
                origin=origin,
                question=drawn["question"],
                answer=drawn["answer"],
                pictures=tuple(pictures.get(view, ())),
                seed=line.get("seed"),
                strength=line.get("strength"),
                distances={name: Distance(**each) for name, each in (line.get("distances") or {}).items()},
                gradient_signs={name: tuple(each) for name, each in (line.get("gradient_signs") or {}).items()},
            )
        )
    responses = []
    for line in lines:
        view = origins.index(line["origin"])
        mean = line.get("entropy")
        responses.append(ResponseSample(view, view, line["text"], reward=float(line["reward"]), entropy=mean))
    return GroupSample(step, "training", number, first["example"], None, tuple(views), tuple(responses))


def _pictures(run: Path) -> dict[tuple[int, int], dict[int, list[bytes]]]:
    """Return the pictures by step and group, of each those by view."""
    files = []
    for file in (run / IMAGES).glob("step-*.png"):
        parts = NAME.fullmatch(file.name)
        if parts:
            step, group, _, view, _, place = parts.groups()
            files.append((int(step), int(group), int(view), int(place), file))
    pictures: dict[tuple[int, int], dict[int, list[bytes]]] = {}
    for step, group, view, _, file in sorted(files):
        pictures.setdefault((step, group), {}).setdefault(view, []).append(file.read_bytes())
    return pictures
