"""Imports, in the fork server, what every trial would otherwise import and discover for itself."""

from __future__ import annotations

import hydra._internal.config_loader_impl
import hydra.core.utils  # noqa: F401
from hydra.core.plugins import Plugins

Plugins.instance()
