"""How much a tenant and its end users may use per day and per month."""
