"""Run bundles: written while a run goes on, sealed when it is over, read by ``open_bundle``."""

from capa.storage.open import Bundle, RecordedEvent, open_bundle

__all__ = ["Bundle", "RecordedEvent", "open_bundle"]
