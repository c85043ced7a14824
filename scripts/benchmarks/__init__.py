"""Benchmarks: how fast the library is beside others on the same machine, in the same minutes.

``scripts/bench`` runs them. Each subject is a module named in :mod:`.subjects`; it measures, and
hands back a :class:`~.findings.Finding`. Findings are kept as JSON in ``results``; tables, plots
and the README's section are drawn from those.
"""
