"""Vision towers, one file for each library: their facts, and how they take another input size.

``describe`` returns the ``Tower`` of a model, or None if the model is of no family of that library. ``resize`` fits a *copy*
of a model to an input size.
"""
