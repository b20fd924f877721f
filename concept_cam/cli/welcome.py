"""``concept-cam`` alone: what it can do, in ten lines."""

from __future__ import annotations

TEXT = """\
concept-cam shows where in an image the evidence for a class is, against the classes that it is confused with.

  concept-cam localize                               a first map: draws a bird and compares it with its twin
  concept-cam localize photo.jpg --target "house finch" --against "purple finch" --model ViT-B-16/laion400m_e32
  concept-cam explore, demo                          you choose what is compared: in a page of your images; on uploads
  concept-cam parts                                  where the parts of a bird are, and what each looks like
  concept-cam audit, evaluate                        what a model relies on; how well methods localize
  concept-cam fields photos/, search STORE TEXT      many images: which show the text best, and where
  concept-cam models, methods, check MODEL           what can be loaded, and whether yours works
`concept-cam --help` lists all commands, `concept-cam COMMAND --help` its options."""
