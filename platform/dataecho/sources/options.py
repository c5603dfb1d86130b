"""Settings that several sources have in common. A source takes them as keywords of its own, see :func:`takes`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from dataecho.errors import require
from dataecho.sources.file import IGNORE_ETAGS

Init = TypeVar("Init", bound=Callable[..., None])


def takes(options: type) -> Callable[[Init], Init]:
    """Decorate a constructor: its ``**options`` are the fields of this dataclass, by name and with their types, in its
    signature and for the checks of the configuration."""

    def decorate(init: Init) -> Init:
        # A class derived from another has fields whose annotations only the module of the other can resolve.
        hints = get_type_hints(options)
        own = inspect.signature(init)
        named = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [one.replace(annotation=hints[one.name]) for one in inspect.signature(options).parameters.values()]
        init.__signature__ = own.replace(parameters=[*named, *added])  # type: ignore[attr-defined]
        init.__annotations__ |= hints
        return init

    return decorate


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How files behind URLs are read. Raises :class:`SettingError` for a value out of bounds."""

    #: Settings of fsspec's file system: credentials, headers, ``client_kwargs``. ``ignore_etags: true`` among them
    #: identifies a file by its size and date alone, where several servers have ETags of their own.
    storage_options: Mapping[str, Any] | None = None
    #: Attempts after a failure that may be transient, each time in a row; 0 fails at once.
    num_retries: int = 5
    #: Seconds before the first of them; the delay doubles with each.
    first_delay: float = 0.5
    #: Seconds without a byte (HTTP) that count as a failure.
    timeout: float = 60.0

    def __post_init__(self) -> None:
        require(
            self.num_retries >= 0,
            "num_retries",
            self.num_retries,
            allowed="whole numbers >= 0",
            cure="Use 0 to fail at the first fault.",
        )
        require(
            self.first_delay >= 0, "first_delay", self.first_delay, allowed="seconds >= 0", cure="The default is 0.5."
        )
        require(self.timeout > 0, "timeout", self.timeout, allowed="seconds > 0", cure="The default is 60.")
        require(
            isinstance(self.ignores_etags, bool),
            f"storage_options.{IGNORE_ETAGS}",
            self.ignores_etags,
            allowed="true or false",
            cure="false, the default, refuses a file whose ETag has changed.",
        )

    @property
    def ignores_etags(self) -> bool:
        """Whether size and date alone identify a file."""
        return (self.storage_options or {}).get(IGNORE_ETAGS, False)

    @property
    def filesystem_options(self) -> dict[str, Any]:
        """The part of ``storage_options`` that fsspec gets."""
        return {name: value for name, value in (self.storage_options or {}).items() if name != IGNORE_ETAGS}


@dataclass(frozen=True, kw_only=True)
class LooseFileOptions(RemoteOptions):
    """How files are read that are an example each."""

    #: Threads that wait for files behind a URL; files on this machine need none.
    num_readers: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.num_readers >= 0,
            "num_readers",
            self.num_readers,
            allowed="whole numbers >= 0",
            cure="The default is 16.",
        )


@dataclass(frozen=True, kw_only=True)
class ShardOptions(RemoteOptions):
    """How shards are fetched, kept and indexed; shards on this machine are read in place."""

    #: Folder that keeps fetched shards between runs; None: a temporary folder until they are dropped.
    cache_dir: str | None = None
    #: Folder of the indexes; None: ``index`` below ``cache_dir`` or the user's cache folder, for fetched shards only.
    index_dir: str | None = None
    #: Most bytes of fetched shards on this machine at a time.
    max_local_bytes: int = 10_000_000_000
    #: Shards that are fetched at once.
    num_fetches: int = 4
    #: Threads that read examples of shards that are not on this machine.
    num_readers: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_fetches", "num_readers"):
            value = getattr(self, name)
            require(value >= 1, name, value, allowed="whole numbers >= 1", cure="The defaults are 4 and 8.")
        require(
            self.max_local_bytes > 0,
            "max_local_bytes",
            self.max_local_bytes,
            allowed="bytes > 0",
            cure="Make it a few shards large.",
        )
