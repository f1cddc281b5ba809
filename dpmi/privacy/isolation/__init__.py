"""Sound forward passes of several buckets: labels track, through every call, which record a value belongs to.

A call *mixes* (couples) records if an entry of its output depends on more than one record. A pass with such a call is
rejected, because its gradient cannot be split by bucket.
"""
