"""Compares the sums of usage with plain queries of the rows."""

KEYS = "tenant, model, state"
AMOUNTS = "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd", "text_length"
COLUMNS = {"cached_tokens": "cached_prompt_tokens", "cost_nano_usd": "coalesce(cost_nano_usd, 0)"}
_SUMMED = ", ".join(f"sum({name})" for name in AMOUNTS)
_COUNTED = ", ".join(f"sum({COLUMNS.get(name, name)})" for name in AMOUNTS)
_DAYS = f"SELECT {KEYS}, sum(replies), {_SUMMED} FROM usage_day GROUP BY {KEYS}"
_ROWS = f"SELECT {KEYS}, count(*), {_COUNTED} FROM usage WHERE rolled GROUP BY {KEYS}"

DIFFERENCES = (
    f"SELECT * FROM (SELECT * FROM ({_DAYS}) AS a EXCEPT SELECT * FROM ({_ROWS}) AS b) AS c "
    f"UNION ALL SELECT * FROM (SELECT * FROM ({_ROWS}) AS d EXCEPT SELECT * FROM ({_DAYS}) AS e) AS f"
)
"""Has a row for each sum by day that is not the sum of the rows that are marked as added."""
ROLLED = "SELECT count(*) FROM usage WHERE rolled"
OF_TENANTS = "SELECT tenant, count(*), sum(prompt_tokens), sum(cost_nano_usd) FROM usage GROUP BY tenant"
