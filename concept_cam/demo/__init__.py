"""DEMO: one page, served to a browser, on which images are uploaded and compared; and the same for scripts.

limits      of uploads, and of what is kept
upload      an image that a visitor gave, read as all images are
view        that image with its field, and the views of all visitors
explainer   a localizer for each method; answers from the field where the method is linear
verdict     the answer in words
place       which concepts have most evidence at a place
figure      the HTML of all that
desk        what the controls do
downloads   the files that ``localize`` writes
blocks      the page, of parts of gradio; figure.js is the script of the map
gate        what of gradio's server may be reached
serve       the server
"""

from __future__ import annotations

from concept_cam.demo.blocks import build_demo
from concept_cam.demo.limits import Limits
from concept_cam.demo.serve import serve

__all__ = ["Limits", "build_demo", "serve"]
