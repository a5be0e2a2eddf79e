-- How a run ended that did not finish, and who does one that has not ended: so that one whose process died is told from
-- one that goes on.
ALTER TABLE run ADD COLUMN holder TEXT;   -- host:process:start of the process; null: begun by an older version
ALTER TABLE run ADD COLUMN ended REAL;    -- when it ended without finishing, or was found dead
ALTER TABLE run ADD COLUMN outcome TEXT;  -- how: failed, interrupted, crashed
