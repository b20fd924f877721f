"""A Space of Hugging Face, or a container elsewhere: the demo with one model, open to everybody.

MODEL, PRETRAINED and VOCABULARY in the settings of the Space choose another model than the embedded encoder.
"""

from __future__ import annotations

import os

from concept_cam import Localizer, load, world
from concept_cam.demo import Limits, build_demo, serve


def localizer() -> Localizer:
    """The localizer of the model that the settings name, or of the embedded encoder."""
    model, pretrained = os.environ.get("MODEL"), os.environ.get("PRETRAINED")
    if not model:
        return world.localizer(vocabulary=world.species())
    return Localizer(load(model, pretrained), vocabulary=os.environ.get("VOCABULARY") or ())


def main(host: str = "0.0.0.0", port: int = 7860, block: bool = True) -> str:  # noqa: S104  (a Space is there for others)
    """Serve the page."""
    limits = Limits(max_bytes=10_000_000, max_pixels=16_000_000, images=32)
    page = build_demo(localizer(), plates=not os.environ.get("MODEL"), limits=limits)
    return serve(page, host=host, port=port, limits=limits, block=block)


if __name__ == "__main__":
    main()
