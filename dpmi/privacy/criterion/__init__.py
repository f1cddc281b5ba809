"""The user's criterion, computed once per bucket on that bucket's outputs and targets."""

from ..structures import RowsPerRecord, constants
from .bucket_losses import losses_by_bucket
from .reduction import dry_reduction, reduction_of

__all__ = ["RowsPerRecord", "constants", "dry_reduction", "losses_by_bucket", "reduction_of"]
