"""The training and scoring engine: a VRPO step that costs no more than DPO's."""

from vrpo.engine.batching import epoch_order, padded_groups, token_budget_groups
from vrpo.engine.checkpoints import find_latest, load_checkpoint, save_checkpoint
from vrpo.engine.engine import Engine
from vrpo.engine.examples import Example, Outputs, make_example
from vrpo.engine.modes import train_adapter_dropout
from vrpo.engine.optimizers import OptimizerName, make_optimizer
from vrpo.engine.training import Forward, StepResult, Trainer, completion_pieces

__all__ = [
    "Engine",
    "Example",
    "Forward",
    "OptimizerName",
    "Outputs",
    "StepResult",
    "Trainer",
    "completion_pieces",
    "epoch_order",
    "find_latest",
    "load_checkpoint",
    "make_example",
    "make_optimizer",
    "padded_groups",
    "save_checkpoint",
    "token_budget_groups",
    "train_adapter_dropout",
]
