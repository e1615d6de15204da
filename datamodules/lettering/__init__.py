"""Words as pictures: fonts, words alone on a canvas, words written on photos, and lists of words."""
