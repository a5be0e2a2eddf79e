-- Merging shards: who read a shard's number before it was merged still finds its file, until it goes.

ALTER TABLE doomed ADD COLUMN shard_id INTEGER;  -- what it was in `shard`; null for files that left before this
ALTER TABLE doomed ADD COLUMN kind TEXT;
ALTER TABLE doomed ADD COLUMN bytes INTEGER;
ALTER TABLE doomed ADD COLUMN sha256 TEXT;
CREATE INDEX doomed_by_shard ON doomed (shard_id);

-- What refers to a shard: without them each shard that leaves costs a scan of these tables.
CREATE INDEX IF NOT EXISTS unit_by_shard ON unit (shard_id);
CREATE INDEX IF NOT EXISTS attribute_by_source ON attribute (of_shard);
CREATE INDEX IF NOT EXISTS checkpoint_by_shard ON checkpoint (shard_id);
CREATE INDEX IF NOT EXISTS selection_by_scores ON selection (scores_shard);
