"""Imported by the server that trials are forked from: what each of them would otherwise import and find for itself."""

from __future__ import annotations

import hydra._internal.config_loader_impl
import hydra.core.utils  # noqa: F401
from hydra.core.plugins import Plugins

Plugins.instance()
