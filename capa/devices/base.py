"""What most adapters share, ours and third parties' alike; using it is optional."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from capa.devices.adapter import FieldInfo
from capa.devices.link import Answer, Link, Priority
from capa.devices.spec import DeviceSpec
from capa.errors import FrameError, LinkTimeoutError

__all__ = ["BaseAdapter"]

ReplyT = TypeVar("ReplyT")


class BaseAdapter:
    """The descriptive half of ``DeviceAdapter``: name, family, link, fields, capabilities.

    A family derives from it and adds ``open``, ``poll`` and ``write``, which go through
    ``_exchange``. ``counters`` says how often what went wrong: ``silent``, ``truncated``,
    ``checksum``, ``foreign``, ``doubled``, ``late``, ``garbled``, ``implausible`` and such.
    """

    def __init__(
        self,
        spec: DeviceSpec,
        link: Link,
        *,
        fields: Mapping[str, FieldInfo],
        capabilities: frozenset[str] = frozenset(),
    ) -> None:
        self._spec = spec
        self._link = link
        self._fields = fields
        self._capabilities = capabilities
        self.counters: dict[str, int] = {}
        self.periods_s: dict[str, float] = {}
        """How often a field is read, in s, where that is not at every poll."""

    @property
    def name(self) -> str:
        """The device's name in the profile."""
        return self._spec.name

    @property
    def family(self) -> str:
        """The name of its family."""
        return self._spec.adapter

    @property
    def resource_id(self) -> str:
        """The name of the link it is on."""
        return self._link.name

    @property
    def capabilities(self) -> frozenset[str]:
        """Capability flags."""
        return self._capabilities

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """What it can tell or be told."""
        return self._fields

    async def _exchange(
        self,
        request: bytes,
        feed: Callable[[bytes], ReplyT | None],
        *,
        priority: Priority,
        reply_timeout_s: float | None = None,
        gap_s: float = 0.0,
    ) -> Answer[ReplyT]:
        """Exchange over the link, and count what is wrong with what comes back."""
        try:
            return await self._link.exchange(
                request, feed, priority=priority, reply_timeout_s=reply_timeout_s, gap_s=gap_s
            )
        except (FrameError, LinkTimeoutError) as error:
            self._count(error.fault)
            raise

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1
