-- A shard's number is never given again, even when its file is gone: a plan, or who read it before, may still have it.

CREATE TABLE shard_number (                -- one row
    last        INTEGER NOT NULL           -- the largest that was ever given
) STRICT;

INSERT INTO shard_number SELECT max(
    (SELECT coalesce(max(shard_id), 0) FROM shard),
    (SELECT coalesce(max(shard_id), 0) FROM doomed),
    (SELECT coalesce(max(number), 0) FROM forgetting_task WHERE kind <> 'selection')
);

CREATE TRIGGER shard_numbered AFTER INSERT ON shard BEGIN
    UPDATE shard_number SET last = max(last, new.shard_id);
END;
