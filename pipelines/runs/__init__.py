"""A whole run, or more from one."""
