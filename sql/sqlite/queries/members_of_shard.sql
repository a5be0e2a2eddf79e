-- Which members of a dataset lie in a shard of examples? Parameters: dataset_id (integer), shard_id (integer)
-- CROSS JOIN: the shard's own rows first, or each shard would cost a pass over the whole dataset.
SELECT e.example_id
FROM example AS e CROSS JOIN dataset_member AS m ON m.example_id = e.example_id
WHERE m.dataset_id = :dataset_id AND e.shard_id = :shard_id;
