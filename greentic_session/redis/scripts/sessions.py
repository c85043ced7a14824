"""The scripts of sessions: see ``lua/sessions/``."""

from __future__ import annotations

from typing import Final

from ..transport.script import Script

__all__ = [
    "CREATE",
    "DELETE",
    "PUT",
    "PUT_FENCED",
    "TOUCH",
    "UPDATE_CAS",
    "UPDATE_CAS_FENCED",
]

CREATE: Final = Script("sessions/create")
PUT: Final = Script("sessions/put")
UPDATE_CAS: Final = Script("sessions/update_cas")
PUT_FENCED: Final = Script("sessions/put_fenced")
UPDATE_CAS_FENCED: Final = Script("sessions/update_cas_fenced")
TOUCH: Final = Script("sessions/touch")
DELETE: Final = Script("sessions/delete")
