"""Shows the plugin's config to Hydra, so that `backend=jax` works on every command line."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class JaxSearchPath(SearchPathPlugin):
    """Appends, never prepends: a project's own config of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="dataecho_jax", path="pkg://dataecho_jax.conf")
