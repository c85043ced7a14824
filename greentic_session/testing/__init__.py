"""Tools for tests of this library, other backends and applications. Extra: ``[testing]``.

* :mod:`greentic_session.testing.servers`: real servers on loopback, without root or Docker.
* :mod:`greentic_session.testing.topologies`: one server, Sentinel, Cluster, and their faults.
* :func:`assert_compatible`: checks that two releases of a state type can share their sessions.
* :mod:`greentic_session.testing.harness`: the interface of a backend for the contract suite.
* :mod:`greentic_session.testing.contract`: the contract suite, which a backend's tests inherit.
* :mod:`greentic_session.testing.fixtures`: pytest fixtures: a server, a fresh namespace.
* :mod:`greentic_session.testing.ladder`: finds that server.
* :mod:`greentic_session.testing.containers`: servers in containers (``[testing-containers]``).
* :mod:`greentic_session.testing.proxy`: a TCP proxy that loses, cuts, delays and drops by schedule.
* :mod:`greentic_session.testing.history`: records the calls of concurrent clients and the answers.
* :mod:`greentic_session.testing.linearizability`: searches for an order that explains a history.
* :mod:`greentic_session.testing.version_order`: checks the tokens of a history too long to search.
* :mod:`greentic_session.testing.planting`: correct histories and wrong ones, to test a checker.
"""

from __future__ import annotations

from .compatibility import assert_compatible

__all__ = ["assert_compatible"]
