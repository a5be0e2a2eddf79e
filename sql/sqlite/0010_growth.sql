-- Warm-ups that later runs use again, and runs that ask for a new one.

ALTER TABLE warmup ADD COLUMN finished REAL;   -- when it ended, or was last asked for: the newest is what a run uses; null: it has not ended
ALTER TABLE run ADD COLUMN new_warmup INTEGER; -- 1: it asks for a new warm-up, 0: for the finished one, null: it says nothing
