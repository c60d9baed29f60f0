"""Every error this package raises on purpose, as one tree.

    AdaptiveMoEError
    ├── ConfigurationError (ValueError)            a setting is unknown, misspelt or out of range
    ├── ModelError
    │   ├── ModelNotFoundError (OSError)           no such folder, or the hub cannot be reached
    │   ├── UnsupportedModelError (ValueError)     not a causal language model, no tokenizer, ...
    │   ├── QuantizationError (ValueError)         this model or device cannot be quantised so
    │   └── InsufficientMemoryError (MemoryError)  does not fit, even after making room
    ├── PromptError (ValueError)
    │   ├── EmptyPromptError
    │   └── PromptTooLongError
    ├── ExpertError
    │   ├── UnknownExpertError (KeyError)
    │   ├── ExpertNameError (ValueError)
    │   ├── BaseMismatchError (ValueError)         trained on another base model
    │   ├── AdapterFormatError (ValueError)        a file that is not what it claims to be
    │   ├── CorruptExpertError (ValueError)        hashes, shapes or values are wrong
    │   └── BankFullError (MemoryError)            the experts in use fill the budget
    ├── StoreError (OSError)                       not writable, disk full, not a store
    ├── DataError (ValueError)                     training or evaluation material is unusable
    │   ├── NoUsableRowsError
    │   └── TooFewExamplesError
    ├── TrainingError (RuntimeError)
    │   ├── DivergedError                          loss not finite, or risen instead of fallen
    │   ├── TrainingInterruptedError               stopped on request; can be resumed
    │   └── TrainingProcessError                   its process ended without a word
    ├── TeacherError (OSError)                     whoever writes training examples fails to
    ├── RouterError (ValueError)                   a router file for another base, too few labels
    ├── ClosedError (RuntimeError)             the runtime was closed
    └── GapError (ValueError)
        ├── UnknownGapError
        └── GapStateError                          the step is not allowed in the gap's state

Messages say what was wrong, where, and what to do; the command line shows them as they are.
"""


class AdaptiveMoEError(Exception):
    """The root of every error raised on purpose by adaptive_moe."""


class ConfigurationError(AdaptiveMoEError, ValueError):
    """A setting is unknown, misspelt or out of range."""


class ModelError(AdaptiveMoEError):
    """The base model cannot be used."""


class ModelNotFoundError(ModelError, OSError):
    """No model stands at this path or under this id."""


class UnsupportedModelError(ModelError, ValueError):
    """The files are there, but they are not a causal language model we can serve."""


class QuantizationError(ModelError, ValueError):
    """The requested quantisation cannot be had for this model on this device."""


class InsufficientMemoryError(ModelError, MemoryError):
    """Not enough memory, even after everything idle was evicted."""


class PromptError(AdaptiveMoEError, ValueError):
    """The prompt cannot be answered as it stands."""


class EmptyPromptError(PromptError):
    """There is nothing to answer."""


class PromptTooLongError(PromptError):
    """Prompt and requested answer do not fit into the model's context."""


class ExpertError(AdaptiveMoEError):
    """An expert cannot be found, read or used."""


class UnknownExpertError(ExpertError, KeyError):
    """No active expert has this name."""

    __str__ = Exception.__str__  # KeyError would quote the whole sentence


class ExpertNameError(ExpertError, ValueError):
    """The name is reserved or not allowed."""


class BaseMismatchError(ExpertError, ValueError):
    """The expert was trained on another base model."""


class AdapterFormatError(ExpertError, ValueError):
    """An adapter's files are not what they claim to be."""


class CorruptExpertError(ExpertError, ValueError):
    """An expert's bytes differ from what was published."""


class BankFullError(ExpertError, MemoryError):
    """The experts in use leave no room for another one."""


class StoreError(AdaptiveMoEError, OSError):
    """The expert store cannot be read or written."""


class DataError(AdaptiveMoEError, ValueError):
    """Training or evaluation material is unusable."""


class NoUsableRowsError(DataError):
    """Not one row of the material can be used."""


class TooFewExamplesError(DataError):
    """There is less material than a training or a measurement needs."""


class TrainingError(AdaptiveMoEError, RuntimeError):
    """A training did not come to an end that could be used."""


class DivergedError(TrainingError):
    """Loss or gradients stayed non-finite, or the loss rose far instead of falling."""


class TrainingInterruptedError(TrainingError):
    """The training was stopped on request and can be resumed."""


class TrainingProcessError(TrainingError):
    """The process that trained ended without saying why; its last checkpoint is there."""


class TeacherError(AdaptiveMoEError, OSError):
    """The model or service that writes training examples does not answer, or not in its form."""


class RouterError(AdaptiveMoEError, ValueError):
    """A router cannot be fitted, loaded or applied."""


class ClosedError(AdaptiveMoEError, RuntimeError):
    """The runtime was closed and answers no more."""


class GapError(AdaptiveMoEError, ValueError):
    """A knowledge gap cannot be found or changed as asked."""


class UnknownGapError(GapError, LookupError):
    """No gap has this id."""


class GapStateError(GapError):
    """The gap's state does not allow this step."""
