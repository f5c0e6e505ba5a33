"""The `edgekd` command: parse, call one library function, print. Heavy packages are imported inside commands."""
