"""`python -m anklume_images` is the `anklume-images` command."""

from anklume_images.cli.main import main

main()
