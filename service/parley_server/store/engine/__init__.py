"""The databases: connections, transactions, dialect, locks."""
