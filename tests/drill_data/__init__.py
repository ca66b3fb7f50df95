"""A campaign of kills: does the spool lose, double or embellish anything, does a bundle lose data.

``python -m tests.drill_data --n 300`` (``make drill-data``) runs the real daemon on the real twin
and kills it with SIGKILL at random instants of claiming, running, finalizing and recovering;
``tests/check_data.py`` then judges what is left, by files alone.
"""
