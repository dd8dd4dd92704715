"""The callback for the Trainer of Hugging Face transformers, and its newest checkpoint."""

from torchrun_trainer.frameworks.transformers import CheckpointError, Elastic, newest_checkpoint

__all__ = ["CheckpointError", "Elastic", "newest_checkpoint"]
