"""Where the names of this package's classes and functions have moved to."""

MOVED = {
    "dataecho_search.processes": "dataecho_search.workers.processes",
    "dataecho_search.pruning": "dataecho_search.study.pruning",
    "dataecho_search.ray_pool": "dataecho_search.workers.ray_pool",
}
