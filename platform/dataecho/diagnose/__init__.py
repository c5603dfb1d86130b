"""Layer 3, ``mode=diagnose``: where the time goes, whether echoing would save some, after which stage and how often."""
