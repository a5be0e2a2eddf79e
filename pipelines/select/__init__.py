"""A method meets the pool: scores, rules, budgets, and how selections compare."""
