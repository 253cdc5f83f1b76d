"""A structure of the user's own and an image: where in it the structure may be, and how well it explains that place.

`given` reads it, `ways` turns it, `places` finds it by cross-correlation and by what its sites hold (`held`), `spots`
puts places together that exclude each other, `compare` says what else may be there, `judge` how probable each is, where
positions are not to be trusted by brightness (`weigh`).
"""
