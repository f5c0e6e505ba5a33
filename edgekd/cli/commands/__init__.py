"""The commands of `edgekd`, one module each; `edgekd.cli.main` registers them."""
