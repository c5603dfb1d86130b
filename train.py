"""The command ``dataecho``, for a checkout: ``python train.py --help`` lists all settings."""

# Hydra's shell completion completes `python train.py` only where the file contains: @hydra.main

from dataecho.__main__ import main

if __name__ == "__main__":
    main()
