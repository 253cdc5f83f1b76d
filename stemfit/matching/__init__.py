"""A structure of the user's own and an image: where in it the structure may be, and how well it explains that place.

`given` reads it, `ways` turns it, `places` finds it, `spots` puts places together that exclude each other, `compare`
says what else may be there, and `judge` how probable each is.
"""
