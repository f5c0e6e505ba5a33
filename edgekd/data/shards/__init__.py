"""Data sets in numbered tar files, in the layout of WebDataset."""
