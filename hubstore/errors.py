"""Every error hubstore raises on purpose.

HubstoreError
├── CorpusError (ValueError)            a row, column or file of the input
│   └── CorpusUnreachableError (ConnectionError)    cannot be read now, and may be later: nothing is wrong with it
├── ModelError (ValueError)             a model that cannot be loaded or read
│   └── SelfCheckError                  batched states differ from single ones
├── NonFiniteError (ValueError)         NaN, infinity or a value beyond the store's dtype
├── StoreError (ValueError)             a store that cannot do what was asked
│   ├── StoreNotFoundError (FileNotFoundError)
│   ├── StoreExistsError (FileExistsError)
│   ├── StoreLockedError                another writer holds the store
│   ├── ShardCommittedError             another writer has committed the shard
│   ├── StoreAccessError (PermissionError)      a file may not be read; a server refuses the credentials
│   ├── StorageUnreachableError (ConnectionError)
│   ├── StoreFormatError                written by another format version
│   └── CorruptStoreError               a file is missing, truncated or changed
├── StoppedError                        a run was asked to end, and goes on when it is started again
├── IndexingError (ValueError)
│   ├── IndexNotFoundError (FileNotFoundError)
│   └── StaleIndexError                 an index older than its store
├── OptionError (ValueError)            a number that an option does not take
├── QueryError (ValueError)             an id, language or layer that is not there
│   └── PositionError (IndexError)      a row that is not there
├── AnalysisError (ValueError)          a question the store's items cannot answer
├── LensError (ValueError)              no unembedding to read with, or a target that is not one token
├── SteeringError (ValueError)          a direction, layer or position that the steered model does not have
├── ServerError (ConnectionError)       a server that does not answer, or is none of hubstore's
│   └── TokenError (PermissionError)    its token is missing or wrong
├── ServeError (OSError)                a server that cannot be started as asked
├── ResourceError (OSError)             no temporary folder, or no further processes
├── EngineError (RuntimeError)          a cluster that cannot be joined, has no room, or loses its workers
└── MissingDependencyError (ImportError)

Each message names the object, the place and the remedy, and each class is also
the builtin a caller would expect. The command line prints the message and exits 1.
"""

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function as a message names it; the command line writes its own option in its place.

    Args:
        name: of the parameter.
        value: to give it, such as "skip" for `on_error='skip'`; "..." for any, `on_error=`; None for the name alone.
    """

    name: str
    value: str | bool | None = None

    def __str__(self) -> str:
        if self.value is None:
            return self.name
        return f"{self.name}={'' if self.value == '...' else repr(self.value)}"


class HubstoreError(Exception):
    """Base of every error hubstore raises on purpose.

    Args:
        parts: of the message, of which a `Parameter` is one; all else is text, whatever it looks like.
    """

    def __init__(self, *parts: str | Parameter) -> None:
        super().__init__("".join(map(str, parts)))
        self.parts = parts


class CorpusError(HubstoreError, ValueError):
    """A row, column or file of the corpus cannot be used."""


class CorpusUnreachableError(CorpusError, ConnectionError):
    """A part of the corpus cannot be read now, through no fault of its own; it is never left out for that."""


class ModelError(HubstoreError, ValueError):
    """A model cannot be loaded, or its blocks cannot be found."""


class SelfCheckError(ModelError):
    """A model's batched hidden states differ from those of single items."""


class NonFiniteError(HubstoreError, ValueError):
    """A hidden state is NaN, infinite, or beyond the range of the store's dtype."""


class StoppedError(HubstoreError):
    """A run was asked to end and has ended after the shard in hand; the same command goes on from there."""


class StoreError(HubstoreError, ValueError):
    """A store cannot do what was asked of it."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the path."""


class StoreExistsError(StoreError, FileExistsError):
    """A different store is already at the path."""


class StoreLockedError(StoreError):
    """Another process is writing to the store."""


class ShardCommittedError(StoreError):
    """A shard has a commit already; its rows stay as they are."""


class StoreAccessError(StoreError, PermissionError):
    """A file may not be read, or an object store refuses: credentials are missing, wrong, expired or not allowed to."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EACCES


class StorageUnreachableError(StoreError, ConnectionError):
    """A disk or an object store does not answer, or fails."""


class StoreFormatError(StoreError):
    """The store was written in a format version this hubstore does not read."""


class CorruptStoreError(StoreError):
    """A file of the store is missing, truncated or changed."""


class IndexingError(HubstoreError, ValueError):
    """An index cannot be built or searched."""


class IndexNotFoundError(IndexingError, FileNotFoundError):
    """The layer has no index."""


class StaleIndexError(IndexingError):
    """The index is older than its store."""


class OptionError(HubstoreError, ValueError):
    """A number is none that an option takes."""


class QueryError(HubstoreError, ValueError):
    """A query names something the store does not have."""


class PositionError(QueryError, IndexError):
    """A row of hidden states is not there."""


class AnalysisError(HubstoreError, ValueError):
    """The store's items cannot answer the question."""


class LensError(HubstoreError, ValueError):
    """A lens has no unembedding to read with, or a target is not one token."""


class SteeringError(HubstoreError, ValueError):
    """A direction does not fit the model, or the model has no such layer or position to steer at."""


class ServerError(HubstoreError, ConnectionError):
    """A server cannot be reached, is too busy, or does not answer as a hubstore server does."""


class TokenError(ServerError, PermissionError):
    """A server wants a bearer token, and was given none or another."""


class ServeError(HubstoreError, OSError):
    """A server cannot be started as asked."""


class ResourceError(HubstoreError, OSError):
    """The system has no folder for temporary files, or starts no further processes."""


class EngineError(HubstoreError, RuntimeError):
    """A cluster cannot be joined, has no room for a worker, or loses its workers again and again."""


class MissingDependencyError(HubstoreError, ImportError):
    """An optional package is needed and not installed."""


class HubstoreWarning(UserWarning):
    """Base of every warning of hubstore; the command line prints it as a note of one line."""


class CorpusWarning(HubstoreWarning):
    """Files that lie beside a corpus are not read."""


class ReadingWarning(HubstoreWarning):
    """Items are prepared in this process, for others cannot be started."""


class UnfinishedStoreWarning(HubstoreWarning):
    """What is read of a store is not all that its corpora have; the extraction that writes it goes on, or has to."""


class IndexWarning(HubstoreWarning):
    """A layer is searched exactly, since its index is not one that hubstore writes."""


class ResultWarning(HubstoreWarning):
    """A result is answered, and the store could not keep it: its disk is full, say."""


class FontWarning(HubstoreWarning):
    """Letters of an image are boxes, for no font of this machine has them."""
