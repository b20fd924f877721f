"""How a run is made, from what it is run with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from concept_cam.errors import one_line
from concept_cam.localizer import Localizer
from concept_cam.methods import name_of
from concept_cam.provenance import Provenance


def how_it_is_made(
    job: str,
    localizer: Localizer,
    data: tuple[str, int],
    identity: Mapping[str, Any],
    *,
    methods: Sequence[str] = (),
    strengths: Sequence[float] = (),
    among: str | None = None,
    more: Mapping[str, str | None] | None = None,
    command: str | None = None,
) -> Provenance:
    """The provenance of a run.

    Args:
        job: what is run.
        localizer: model, preprocessing, templates and site.
        data: name of the dataset, and how many examples it has.
        identity: digests, from ``identity_of``.
        methods: by name; the localizer's own by default.
        strengths: of the references.
        among: the classes among which the model decides, in words.
        more: what else was asked for, in words; None is omitted.
        command: the command line, if there is one.
    """
    backbone, size = localizer.backbone.original, localizer.preprocess.size
    return Provenance(
        job=job,
        data=one_line(data[0]),
        images=data[1],
        data_digest=identity["images_digest"],
        model=one_line(localizer.backbone.name),
        model_digest=identity["model_digest"],
        method=tuple(methods) or (name_of(localizer.method),),
        site=localizer.site,
        gradient=localizer.form,
        input=f"{localizer.preprocess.fit}, {size[0]} x {size[1]} pixels",
        strength=tuple(strengths),
        templates=tuple(map(one_line, localizer.templates)),
        among=among,
        more={key: one_line(value) for key, value in (more or {}).items() if value is not None},
        versions={"concept-cam": version("concept-cam"), **backbone.versions},
        command=None if command is None else one_line(command, 10_000),
    )
