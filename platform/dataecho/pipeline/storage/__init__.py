"""Where results and records are kept until their last use."""
