"""EXPLORE: one page with the maps of all concepts for each image; its script subtracts them, so that it needs no server.

images, vocabulary    a Localizer gives the field of each image, and the field gives the maps of all concepts
computed    which maps a page has of a method that is not linear, and so has no fields
maps        these maps in few bytes: what most of them share in 16 bits, the rest in 8
shown       an image of the page: small, with its maps and its scores
html        the page: explorer.html.jinja, explorer.css, and the scripts maps, heat, parts, state, saving and explorer
write       all of it, for many images, to one file
beside      the same beside a report, of the images to which the report links it
"""

from __future__ import annotations

from concept_cam.explorer.beside import Beside
from concept_cam.explorer.computed import Computed
from concept_cam.explorer.html import to_html
from concept_cam.explorer.maps import PackedMaps
from concept_cam.explorer.shown import Shown
from concept_cam.explorer.write import check_method, has_field, write_explorer

__all__ = ["Beside", "Computed", "PackedMaps", "Shown", "check_method", "has_field", "to_html", "write_explorer"]
