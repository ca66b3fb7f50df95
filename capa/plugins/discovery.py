"""Find procedures among entry points; one that does not load takes no other with it."""

from importlib.metadata import EntryPoint, entry_points

import structlog

from capa.experiment.procedures.base import Procedure

__all__ = ["load_procedures"]

_GROUP = "capa.procedures"


def load_procedures() -> dict[str, type[Procedure]]:
    """Load every procedure of the group ``capa.procedures``, by the class's own ``id``."""
    procedures: dict[str, type[Procedure]] = {}
    for entry in entry_points(group=_GROUP):
        procedure = _load(entry)
        if procedure is not None:
            procedures[procedure.id] = procedure
    return procedures


def _load(entry: EntryPoint) -> type[Procedure] | None:
    try:
        procedure: type[Procedure] = entry.load()
        _ = procedure.id, procedure.config_model, procedure.preflight, procedure.run
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything when it is imported
        structlog.get_logger(__name__).warning(
            "plugin.broken",
            group=_GROUP,
            name=entry.name,
            target=entry.value,
            message=f"procedure '{entry.name}' does not load: {error!r}; it is left out",
        )
        return None
    return procedure
