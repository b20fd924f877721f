"""STORE: the fields of many images in one folder, which answers texts without the images and without the image encoder.

packing   how the vectors of a field are kept: exact, or compact
batches   a batch on disk: what is kept of each of its images
storing   a run that stores the fields of images, and is resumed
index     the embeddings of all images in one file, searched in blocks
store     an open store: it ranks its images by a comparison, and localizes in those that are asked for
matches   an answer as a page with overlays, a table and JSON
"""

from __future__ import annotations

from concept_cam.store.matches import write_matches
from concept_cam.store.packing import KEEP, pack, unpack
from concept_cam.store.store import Answer, Match, Store
from concept_cam.store.storing import store_fields

__all__ = ["KEEP", "Answer", "Match", "Store", "pack", "store_fields", "unpack", "write_matches"]
