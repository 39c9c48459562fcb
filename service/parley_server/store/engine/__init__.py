"""The database engines: connections, transactions, SQL dialects, driver errors, the file lock."""
