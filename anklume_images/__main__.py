"""`python -m anklume_images` is the `anklume-images` command."""

from anklume_images.cli import main

main()
