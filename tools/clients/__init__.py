"""What the clients of all languages have in common, read off the contract and written in each language."""
