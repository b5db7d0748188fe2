"""The store in a folder on the disk: SQLite for what is kept, segment files for the numbers."""
