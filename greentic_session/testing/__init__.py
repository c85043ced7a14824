"""What tests of this library, of other backends and of applications share. Extra: ``[testing]``.

* :mod:`greentic_session.testing.servers`: real servers on loopback, without root or Docker.
* :mod:`greentic_session.testing.topologies`: one server, Sentinel, Cluster, and their faults.
* :mod:`greentic_session.testing.harness`: what a backend shows to the contract suite.
* :mod:`greentic_session.testing.contract`: the suite; a backend's tests inherit it.
* :mod:`greentic_session.testing.fixtures`: pytest fixtures: a server, a fresh namespace.
* :mod:`greentic_session.testing.ladder`: where that server comes from.
* :mod:`greentic_session.testing.containers`: the same in containers (``[testing-containers]``).
* :mod:`greentic_session.testing.proxy`: a line that loses, cuts, delays and swallows by schedule.
* :mod:`greentic_session.testing.history`: records what concurrent clients do and are told.
* :mod:`greentic_session.testing.linearizability`: searches an order that explains a history.
* :mod:`greentic_session.testing.version_order`: checks the tokens of a history too long to search.
* :mod:`greentic_session.testing.planting`: right histories and wrong ones, to test a checker.
"""
