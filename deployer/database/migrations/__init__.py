"""The steps from each form of the tables to the next, for Alembic; shipped with the program.

A step that has been released is never changed: what it makes is written out in it, and not taken from
``schema.py``, which goes on.
"""
