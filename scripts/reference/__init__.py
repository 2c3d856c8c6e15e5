"""Writes the manual's reference (docs/reference) from the code.

A reference that people write by hand is wrong after the next change. Everything here is read from
the tables and types that the program itself runs on: the command line's declarations, the table of
routes, the catalogue of errors, the limits with the reasons that stand beside them. What a page
says in words of its own is only what joins these together. `python -m scripts.reference` writes the
pages; a test fails where they are not what the code says.
"""
