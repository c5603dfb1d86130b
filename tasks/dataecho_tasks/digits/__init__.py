"""The embedded default: real handwritten digits, offline, seconds."""
