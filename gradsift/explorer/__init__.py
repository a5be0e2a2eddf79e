"""The explorer: a local page to look at a store. It reads, and writes nothing but selections that its user saves.

`app` makes the page of routers, one for each view; `security` says who may ask and what browsers may do with answers;
`serve` runs it. What a view shows is made in `pipelines/query` and `datastore`; here it becomes HTML, JSON or bytes.
"""
