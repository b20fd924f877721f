"""Results as ``supervision`` draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concept_cam.errors import DatasetError, missing
from concept_cam.writers.regions import Result, regions_of

if TYPE_CHECKING:
    import supervision


def to_supervision(result: Result) -> supervision.Detections:
    """The marked regions as detections for the annotators of ``supervision``; needs the extra ``supervision``.

    For a finding, ``class_id`` is the index of a part among all of them, ``data["class_name"]`` its name. A localization is
    one detection, of class 0, with the name of the target. Boxes are half-open.

    Raises:
        DatasetError: the extra is not installed.

    Example:
        >>> from concept_cam import world
        >>> from concept_cam.writers import to_supervision
        >>> plate = world.draw_species("ember finch", seed=3)
        >>> result = world.localizer()(plate.image, "ember finch", "frost finch")
        >>> to_supervision(result).xyxy.shape
        (1, 4)
    """
    try:
        import supervision  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(missing("supervision", "make supervision's detections")) from error
    found = regions_of(result)
    seen = found.seen
    names = [region.name if found.kind == "parts" else found.whole for region in seen]
    return supervision.Detections(
        xyxy=np.array([region.box for region in seen], dtype=np.float32).reshape(len(seen), 4),
        mask=np.array([region.mask.numpy() for region in seen], dtype=bool).reshape(len(seen), *found.size),
        confidence=np.array([region.score for region in seen], dtype=np.float32),
        class_id=np.array([region.place for region in seen], dtype=np.int64),
        data={"class_name": np.array(names, dtype=np.str_)},
    )
