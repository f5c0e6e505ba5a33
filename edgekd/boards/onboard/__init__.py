"""What runs on a board: a Python 3.8 program of the standard library alone, sent as one zip file.

It knows nothing of edgekd. Every verb prints one marked line of JSON, so that what a login shell prints does no harm.
"""
