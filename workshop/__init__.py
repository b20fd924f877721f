"""How the embedded world's encoders are made and judged; for those who change the world, not in the wheel.

batches, training   how the weights of the embedded encoder were made
shortcut_training   how its sister with planted shortcuts was made
benchmark           how well the encoder knows its world, and how well methods find the difference between twins
ablation            ways to put several references together
depth, mixing       in which block evidence is gathered, and how far blocks have mixed patches by then
pooled              encoders that pool their patches, and which methods find the part there
docstrings, llms    how the documentation site shows docstrings, and its files for language models
"""
