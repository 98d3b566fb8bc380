"""`python -m launcher`: the `anklume-launch` command."""

from launcher.cli.main import main

main()
