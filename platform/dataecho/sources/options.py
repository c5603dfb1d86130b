"""Settings that several sources have in common. A source takes them as keywords of its own, see :func:`takes`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from dataecho.declare import SettingGroup, setting
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
class RemoteOptions(SettingGroup, key=""):
    """How files behind URLs are read. Raises :class:`SettingError` for a value out of bounds."""

    storage_options: Mapping[str, Any] | None = setting(
        None,
        help="Settings of fsspec's file system: credentials, headers, client_kwargs. ignore_etags: true among them "
        "identifies a file by its size and date alone, where several servers have ETags of their own.",
    )
    num_retries: int = setting(
        5, at_least=0, help="Attempts after a transient failure, in a row.", cure="Use 0 to fail at the first fault."
    )
    first_delay: float = setting(
        0.5,
        at_least=0,
        unit="seconds",
        help="Delay before the first retry; each next delay is twice as long.",
        cure="The default is 0.5.",
    )
    timeout: float = setting(
        60.0,
        above=0,
        unit="seconds",
        help="Time without a byte (HTTP) that counts as a failure.",
        cure="The default is 60.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
class LooseFileOptions(RemoteOptions, key=""):
    """How files are read that are an example each."""

    num_readers: int = setting(
        16, at_least=0, help="Threads that wait for files behind a URL; files on this machine need none."
    )


@dataclass(frozen=True, kw_only=True)
class ShardOptions(RemoteOptions, key=""):
    """How shards behind URLs are fetched, kept and indexed; shards on this machine are read in place."""

    cache_dir: str | None = setting(
        None, help="Folder that keeps fetched shards between runs; null: a temporary folder until they are dropped."
    )
    index_dir: str | None = setting(
        None, help="Folder of the shards' indexes; null: index below cache_dir or the user's cache folder."
    )
    max_local_bytes: int = setting(
        10_000_000_000,
        above=0,
        unit="bytes",
        help="Most space for fetched shards on this machine.",
        cure="Make it a few shards large.",
    )
    num_fetches: int = setting(4, at_least=1, help="Shards that are fetched at once.", cure="The default is 4.")
    num_readers: int = setting(
        8,
        at_least=1,
        help="Threads that read examples of shards that are not on this machine.",
        cure="The default is 8.",
    )
