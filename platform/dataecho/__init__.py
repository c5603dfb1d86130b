"""dataecho: data echoing for training that is bound by its input.

Plan in ids, run in parallel, count exactly: see ``docs/explanation/architecture.md``.
"""

__version__ = "0.1.0"
