"""The callback for Lightning, and the numbers that its Trainer needs."""

from torchrun_trainer.frameworks.lightning import Elastic, TrainerArguments, check, trainer_arguments

__all__ = ["Elastic", "TrainerArguments", "check", "trainer_arguments"]
