-- How a run ended that did not finish, and who does one that has not ended: so that one whose process died is told from
-- one that goes on.
ALTER TABLE run ADD COLUMN holder code_text;   -- host:process:start of the process; null: begun by an older version
ALTER TABLE run ADD COLUMN ended DOUBLE PRECISION;   -- when it ended without finishing, or was found dead
ALTER TABLE run ADD COLUMN outcome code_text;  -- how: failed, interrupted, crashed
