"""Makes the text of running replies durable: checkpoints in the store, and the text journal beside SQLite."""
