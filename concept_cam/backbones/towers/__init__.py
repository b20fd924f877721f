"""Where tokens can be read in a vision tower, and how it takes another input size: a file for each library.

``describe`` says what a tower offers, or None if it is of no family of that library. ``resize`` fits a *copy* of a tower to an
input size.
"""
