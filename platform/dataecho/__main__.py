"""``python -m dataecho`` is the command ``dataecho``."""

from dataecho.command_line import main

main()
