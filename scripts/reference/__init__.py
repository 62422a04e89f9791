"""The reference pages, kept in step with the code: ``python -m scripts.reference`` (``make docs``) writes them.

What the code knows stands between markers on the page and is written by a program; prose, and the cells of a table that
only a person can write, are left as they are. Tests compare, and fail when a page lags behind.
"""
