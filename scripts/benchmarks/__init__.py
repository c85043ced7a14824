"""Benchmarks: this library and others, measured together on the same machine.

``scripts/bench`` runs them. Each subject is a module named in :mod:`.subjects` that returns a
:class:`~.findings.Finding`. Findings are stored as JSON in ``results``. Tables, plots and the
README's section are generated from them.
"""
