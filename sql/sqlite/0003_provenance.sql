-- Where a chosen example counted as coming from when it was chosen: a later recipe may say otherwise of its rows, and an
-- export must say what was true of the selection. Of older selections, what the catalog says now is the best there is.

ALTER TABLE selection_item ADD COLUMN source TEXT;
ALTER TABLE selection_item ADD COLUMN licence TEXT;

UPDATE selection_item SET
    source = (SELECT e.source FROM example AS e WHERE e.example_id = selection_item.example_id),
    licence = (SELECT e.licence FROM example AS e WHERE e.example_id = selection_item.example_id);
