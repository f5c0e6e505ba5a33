"""Outputs of frozen networks on disk, by sample and by the augmentation that it was seen with.

A row is of a sample's view: what augmentation makes of it is decided by a seed, the sample and the number of the view,
never by the step, so the row is right wherever the sample is met. What else outputs follow from (weights, data, what
the augmentation does, precision) is the name of the folder they lie in.
"""

from edgekd.distill.teacher_cache.caching import (
    Recalls,
    cacheable,
    recalled,
    require_cacheable,
    require_within_limit,
    views_for,
)
from edgekd.distill.teacher_cache.folder import Entry, entries, find, remove, size_in_words
from edgekd.distill.teacher_cache.key import cache_folder

__all__ = [
    "Entry",
    "Recalls",
    "cache_folder",
    "cacheable",
    "entries",
    "find",
    "recalled",
    "remove",
    "require_cacheable",
    "require_within_limit",
    "size_in_words",
    "views_for",
]
