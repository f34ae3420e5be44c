"""A folder where today's engine has a module of that name; mixed with it, this one would win."""

raise ImportError("old engine")
