"""What tests of this library, of other backends and of applications share. Extra: ``[testing]``.

* :mod:`greentic_session.testing.servers`: real servers on loopback, without root or Docker.
* :mod:`greentic_session.testing.topologies`: one server, Sentinel, Cluster, and their faults.
* :mod:`greentic_session.testing.harness`: what a backend shows to the contract suite.
* :mod:`greentic_session.testing.contract`: the suite; a backend's tests inherit it.
* :mod:`greentic_session.testing.fixtures`: pytest fixtures: a server, a fresh namespace.
* :mod:`greentic_session.testing.ladder`: where that server comes from.
* :mod:`greentic_session.testing.containers`: the same in containers (``[testing-containers]``).
"""
