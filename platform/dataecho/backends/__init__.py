"""Layer 3: one framework per module. Importing this package imports none of them."""
