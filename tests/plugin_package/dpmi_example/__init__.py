"""A defence and an attack outside dpmi, which work in its studies by their names."""
