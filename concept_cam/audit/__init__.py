"""AUDIT: what a model relies on, over a data set.

object_share where evidence lies with respect to the object
words        the difference of two classes in words; backgrounds erased
columns      what a row holds
examine      one forward pass an image: a row, maps
packing      the maps as a batch on disk holds them
run          the rows and maps on disk, batch by batch

From here on no model is needed.

setup        what the audit is of
maps         the maps, read again in one pass
figures      what is said of a class, a pair, a background, and when it is enough for an alarm
findings     what the rows and maps come to: classes, pairs, backgrounds
model_diff   two models on the same images
summary      a few figures, and what makes an audit fail
tables       all of it as CSV
explored     the explorer beside the report
thumbnails   the evidence, drawn on images
suspects     what the page of the audit says first
pairs        the pairs on the page of the audit, and on pages of their own
report       all of it as a page
"""

from __future__ import annotations

from concept_cam.audit.columns import AuditRow
from concept_cam.audit.explored import Explored
from concept_cam.audit.figures import ALARM, ClassAudit, Pair
from concept_cam.audit.findings import Audit
from concept_cam.audit.report import write_report
from concept_cam.audit.run import audit
from concept_cam.audit.tables import write_tables
from concept_cam.audit.words import Difference

__all__ = [
    "ALARM",
    "Audit",
    "AuditRow",
    "ClassAudit",
    "Difference",
    "Explored",
    "Pair",
    "audit",
    "write_report",
    "write_tables",
]
