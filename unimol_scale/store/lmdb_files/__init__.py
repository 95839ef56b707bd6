"""LMDB files of others, read without the library, which trusts what stands in them."""
