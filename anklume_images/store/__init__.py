"""What comes out: blobs, images, channels, SBOM."""
