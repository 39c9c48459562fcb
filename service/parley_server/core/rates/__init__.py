"""How many messages an end user may send per minute, and how many replies of a tenant may run at the same time."""
