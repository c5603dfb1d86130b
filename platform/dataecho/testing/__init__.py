"""Contract suites that tasks, backends, sources, trackers and plugins reuse: subclass one, give it a fixture."""
