-- Where does an example come from, and which selections hold it? Parameters: id (text: the start of an id)
SELECT e.example_id, e.source, o.file, o.line, o.licence, o.extra, s.name AS selection, s.target, i.rank, i.score
FROM example AS e
LEFT JOIN origin AS o USING (example_id)
LEFT JOIN selection_item AS i USING (example_id)
LEFT JOIN selection AS s USING (selection_id)
WHERE substr(e.example_id, 1, length(:id)) = :id
ORDER BY o.file, o.line, s.selection_id;
