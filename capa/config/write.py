"""Methods and experiments as text again, for the bundle that keeps what was run."""

from capa.config.experiment import ExperimentConfig
from capa.experiment.method import Method

__all__ = ["experiment_text", "method_text"]


def method_text(method: Method) -> str:
    """Return a method as TOML, without what it leaves out."""
    return _toml(method.model_dump(mode="json", exclude_none=True))


def experiment_text(experiment: ExperimentConfig) -> str:
    """Return an experiment as TOML; its method stands in a file of its own."""
    return _toml(experiment.model_dump(mode="json", exclude_none=True, exclude={"method"}))


def _toml(data: dict[str, object]) -> str:
    import tomli_w  # needed when a run is armed, and not to start the daemon

    return tomli_w.dumps(_without_none(data))


def _without_none(data: dict[str, object]) -> dict[str, object]:
    """Drop what TOML has no word for, in the free-form tables too."""
    return {key: _plain(value) for key, value in data.items() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return _without_none(value)
    if isinstance(value, list):
        return [_plain(item) for item in value if item is not None]
    return value
