"""Typed sessions for ASGI applications: middleware, login, devices."""

from __future__ import annotations

from .._exports import export_from as _export_from
from .cookies import CookiePolicy
from .counters import Rejection, WebStatistics
from .devices import SigningIn, WebDevice
from .ending import SessionEnd
from .middleware import SessionMiddleware
from .policy import WebPolicy
from .session import WebSession
from .sessions import WebSessions, current
from .tenants import Tenant

__all__ = [
    "CookiePolicy",
    "Rejection",
    "SessionEnd",
    "SessionMiddleware",
    "SigningIn",
    "Tenant",
    "WebDevice",
    "WebPolicy",
    "WebSession",
    "WebSessions",
    "WebStatistics",
    "current",
]


_export_from(__name__, globals())
