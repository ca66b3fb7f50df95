"""What most adapters share, ours and third parties' alike; using it is optional."""

from collections.abc import Mapping

from capa.devices.adapter import FieldInfo
from capa.devices.link import Link
from capa.devices.spec import DeviceSpec

__all__ = ["BaseAdapter"]


class BaseAdapter:
    """The descriptive half of ``DeviceAdapter``: name, family, link, fields, capabilities.

    A family derives from it and adds ``open``, ``poll`` and ``write``.
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
