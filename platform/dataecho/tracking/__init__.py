"""Layer 3: where a run is recorded beside its own folder."""
