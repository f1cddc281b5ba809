"""A defence and an attack that are not part of dpmi, and work in its studies by their names."""
