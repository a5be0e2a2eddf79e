-- Which members of a dataset lie in a shard of examples? Parameters: dataset_id (integer), shard_id (integer)
SELECT e.example_id
FROM example AS e JOIN dataset_member AS m ON m.example_id = e.example_id
WHERE m.dataset_id = :dataset_id AND e.shard_id = :shard_id;
