"""The recorded benchmark of the search: `record` makes the tables, `run` and `studies` judge policies on them."""
