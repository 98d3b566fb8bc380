"""The sealed build: recipe, trees, sandbox, loopback mirror, distrobuilder, packer."""
