"""Sources share a budget: parts, weights, orders, mixing laws."""
