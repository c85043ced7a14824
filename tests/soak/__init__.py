"""What ``scripts/soak`` runs: the suite's own machinery, for as long as a night allows.

A module per subject, with coroutines of the kind ``report.Soak``, which ``catalogue`` lists.
"""
