"""EXPLORE: one page with the maps of all concepts for each image; its script subtracts them, so that it needs no server.

images, vocabulary    a Localizer gives the field of each image, and the field gives the maps of all concepts
maps        these maps in few bytes: what most of them share in 16 bits, the rest in 8
shown       an image of the page: small, with its maps and its scores
html        the page: explorer.html.jinja, explorer.css, and the scripts maps.js, heat.js, parts.js and explorer.js
write       all of it, for many images, to one file
"""

from __future__ import annotations

from concept_cam.explorer.html import to_html
from concept_cam.explorer.maps import PackedMaps
from concept_cam.explorer.shown import Shown
from concept_cam.explorer.write import check_method, write_explorer

__all__ = ["PackedMaps", "Shown", "check_method", "to_html", "write_explorer"]
