"""The base class of the verbs: a store's encoder, and the steps that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, cast, final

from ..._validation import require_bool, require_label_names
from ...abc.fencing import SupportsFencing, lease_ref_of
from ...abc.records import DONE, error_for
from ...errors import AmbiguousKeyError, InvalidInputError, TenantMismatchError
from ...model import C, Cas
from .. import tenancy
from ..encoding import SessionEncoder
from ..lifetime import StoreLifetime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from ...abc.fencing import Fenced, LeaseRef
    from ...abc.records import AllowedOwners, EncodedSession, Outcome, Record
    from ...codec import CodecFactory
    from ...config.backends import OnUnknown
    from ...model import SessionKey, Versioned
    from ..evolution import Upgrades

__all__ = ["StoreServices", "VerbBase", "services_of"]


class VerbBase(StoreLifetime, Generic[C]):
    """Holds the encoder of a store, and the steps that several verbs share.

    :ivar indexed_labels: names of the labels that :meth:`AsyncSessionStore.find` accepts.
    """

    def __init__(
        self,
        context_type: type[C],
        *,
        codec: CodecFactory,
        max_payload_bytes: int,
        verify: bool,
        close_secs: timedelta | float,
        require_ctx: bool,
        unknown_fields: OnUnknown,
        schema_version: int | None,
        upgrades: Upgrades | None,
        indexed_labels: Sequence[str],
    ) -> None:
        super().__init__(close_secs)
        require_bool(require_ctx, "require_ctx")
        self._requires_ctx: Final = require_ctx
        self.context_type: Final = context_type
        self.indexed_labels: Final = require_label_names(indexed_labels)
        self._encoder: Final = SessionEncoder(
            context_type,
            codec,
            max_payload_bytes,
            verify=verify,
            unknown_fields=unknown_fields,
            schema_version=schema_version,
            upgrades=upgrades,
            indexed_labels=self.indexed_labels,
        )

    def _opened(
        self, key: SessionKey, record: Record, allowed: AllowedOwners | None
    ) -> Versioned[C]:
        if not tenancy.allows(allowed, record.owner):
            raise TenantMismatchError(key)
        return self._encoder.decode(key, record)

    def _lease(self, fence: Fenced, encoded: EncodedSession) -> LeaseRef:
        if not isinstance(self, SupportsFencing):
            raise InvalidInputError("fence", f"{type(self).__name__} does not support leases")
        return lease_ref_of(fence, encoded)

    async def _sole(self, key: SessionKey, until: float | None) -> tuple[str | None, None]:
        """Return the one scope that has the key. Without a caller, there is no access check.

        :raises InvalidInputError: the store requires a caller.
        """
        if self._requires_ctx:
            raise InvalidInputError("ctx", "is missing: the store requires a caller (require_ctx)")
        scopes = await self._holders(key, until)
        if len(scopes) > 1:
            raise AmbiguousKeyError(key)
        return (scopes[0] if scopes else None), None

    @staticmethod
    def _token(key: str, outcome: Outcome) -> Cas:
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        raise error_for(key, outcome)


@final
class StoreServices(Generic[C]):
    """The parts of a store that services on top of it use.

    :param store: the store.
    :ivar encoder: checks, encodes and decodes the store's sessions.
    :ivar check_open: raises :class:`StoreUnavailableError` if the store was closed. A service calls
        it first.
    """

    __slots__ = ("check_open", "encoder")

    def __init__(self, store: VerbBase[C]) -> None:
        self.encoder: Final[SessionEncoder[C]] = store._encoder  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self.check_open: Final[Callable[[], None]] = store._check_open  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def services_of(store: VerbBase[C]) -> StoreServices[C]:
    """Return the parts of a store that services on top of it use.

    :raises InvalidInputError: ``store`` is not a store.
    """
    if not isinstance(cast("object", store), VerbBase):
        raise InvalidInputError("store", f"expected a store, got {type(store).__name__}")
    return StoreServices(store)
