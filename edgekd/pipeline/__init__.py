"""The stages of `edgekd distill`, and the ledger that lets an interrupted run go on where it stopped."""
