-- The way back from a row: other columns of the rows that examples were read from, and what an export said of them.

ALTER TABLE origin ADD COLUMN extra TEXT;  -- other columns of the row there: a JSON object, canonical, or null

CREATE TABLE exported (                    -- places and other columns in the first export of a selection, of which
    selection_id INTEGER PRIMARY KEY REFERENCES selection (selection_id) ON DELETE CASCADE,
    places      BLOB NOT NULL              -- later readings of its files change nothing; zlib of JSON, in rank order
) STRICT;
