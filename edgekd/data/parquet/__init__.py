"""Data sets in Parquet tables, as `datasets` and the Hugging Face hub keep them."""
