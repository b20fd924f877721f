"""AUDIT: what a model relies on, over a data set.

object_share where evidence lies with respect to the object
words        the difference of two classes in words; backgrounds erased
examine      one forward pass an image: a row, aligned maps
run          the rows on disk, batch by batch
figures      what is said of a class, a pair, a background, and when it is enough for an alarm
findings     what the rows come to: classes, pairs, backgrounds
model_diff   two models on the same images
summary      tables, figures, and what makes an audit fail
thumbnails   what decided, drawn on images
report       all of it as a page
"""

from __future__ import annotations

from concept_cam.audit.figures import ALARM, ClassAudit, Pair
from concept_cam.audit.findings import Audit
from concept_cam.audit.report import write_report
from concept_cam.audit.run import audit
from concept_cam.audit.words import Difference

__all__ = ["ALARM", "Audit", "ClassAudit", "Difference", "Pair", "audit", "write_report"]
