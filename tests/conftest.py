"""Shapes and types in the package's signatures are checked while the tests run, and at no other time."""

from __future__ import annotations

import random

from jaxtyping import install_import_hook

# beartype looks at a random item of a container. It shall draw from a generator of its own: the tests watch the global one.
shared, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
from beartype import BeartypeConf, beartype  # noqa: E402

# An int is a float to Python's typing, and to ours.
typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
random.getrandbits = shared

install_import_hook("concept_cam", "conftest.typechecked")
