"""`python -m launcher`: the `anklume-launch` command."""

from launcher.cli import main

main()
