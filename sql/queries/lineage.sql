-- Where does an example come from, and which selections hold it? Parameter: :example_id
SELECT e.example_id, e.source, o.file, o.line, o.licence, o.extra, s.name AS selection, s.target, i.rank, i.score
FROM example AS e
LEFT JOIN origin AS o USING (example_id)
LEFT JOIN selection_item AS i USING (example_id)
LEFT JOIN selection AS s USING (selection_id)
WHERE e.example_id = :example_id
ORDER BY o.file, o.line, s.selection_id;
