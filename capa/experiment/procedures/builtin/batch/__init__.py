"""The same run N times: replicates, each a whole run with its own bundle."""

from capa.experiment.procedures.builtin.batch.config import BatchConfig, CooldownUntil, Override
from capa.experiment.procedures.builtin.batch.procedure import Batch, BatchError

__all__ = ["Batch", "BatchConfig", "BatchError", "CooldownUntil", "Override"]
