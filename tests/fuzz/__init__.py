"""Files from outside, damaged at random: each is read, or refused in one line.

    python tests/fuzz                          all kinds, as many as are promised; some minutes
    python tests/fuzz images --count 500       one kind
    python tests/fuzz images --only 1234       one case again, with its traceback

A kind is a module here with a function ``case(rng, folder)``: it writes a file into the folder and returns a function that
reads it. The random generator of a case depends on its kind and number alone, so that a case can be run again.
"""
