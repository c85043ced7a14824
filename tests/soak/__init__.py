"""The runs of ``scripts/soak``: the suite's own tools, for many hours.

A module per subject has coroutines of the kind ``report.Soak``, which ``catalogue`` lists.
"""
