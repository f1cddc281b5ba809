"""The loops of other libraries, trained privately; each module needs the library's extra."""
